"""Low-k KL: how much does the classifier's output change when the least important pixels are removed?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.fill import Fill, make_filler, no_inpainter, valid_fill
from xbench.method import Method
from xbench.metric import METRICS, Column, Metric, Scored
from xbench.ops.ranking import ranks
from xbench.perturb import all_logits, stream
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.types import Maps, Masks


@METRICS.register("low-k-kl")
@dataclass(frozen=True)
class LowKKL(Metric):
    """Area under KL(p(x) || p(x_k)) against the share k of pixels removed, least important first; lower = better.

    x_k is the image whose k = 0, 10, .., 90 % least important pixels are replaced by ``fill``. The area is in nats, the share
    running from 0 to 0.9; 0 means that the pixels of the last tenth alone give the same probabilities as the image. Compare it
    with that of the control ``random``: the scale is the classifier's.

    ``curves["kl"]`` (b, 10) is the divergence in nats at every k, 0 at k = 0.

    Source: the pixel perturbation of "Variational saliency maps for explaining model's behavior" (ICLR 2021 submission), which
    shows curves and sets pixels to zero. Own decisions: the area under the curve, by trapezoid, as its one number; k up to 90 %
    by 10 %, rounded to whole pixels, the area using the exact share; zero is black, not the classifier's mean pixel; ties
    are broken by image (see ``ranks``).

    Args:
        fill: what replaces the removed pixels, see ``make_filler``. Scores of different fills do not compare.

    Raises ValueError if ``fill`` is not one of the fills.
    """

    fill: Fill = "zero"

    columns: ClassVar[tuple[Column, ...]] = (Column("kl", "Low-k KL", False, "nats"),)

    def __post_init__(self) -> None:
        valid_fill(self.fill)

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """The areas (b,) and the curves."""
        assert maps is not None
        classifier = explainer.classifier
        _, h, w = maps.shape
        rng = ImageRandom(explainer.seed, batch.ids)
        order = ranks(maps, rng.uniform("ties", (h * w,)))
        kept = h * w - (torch.arange(10, device=maps.device) * h * w + 5) // 10

        def mask_of(image: Tensor, step: Tensor) -> Masks:
            return (order[image] < kept[step, None]).view(-1, 1, h, w)

        fill = make_filler(self.fill, classifier, batch.x, rng)
        log_p = stream(classifier, batch.x, len(kept), mask_of, fill, all_logits).log_softmax(2)
        curve = (log_p[:, :1].exp() * (log_p[:, :1] - log_p)).sum(2)
        return Scored({"kl": torch.trapezoid(curve, 1 - kept.to(curve) / (h * w), dim=1)}, {"kl": curve})

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """One forward pass per point of the curve, the first of the whole image."""
        return Passes(forward=10)

    def not_applicable(self, method: Method, classifier: Classifier) -> str | None:
        """No inpainter ships for the classifier's images."""
        return no_inpainter(self.fill, classifier)

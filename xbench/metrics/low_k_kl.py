"""Low-k KL: how much does the classifier's output change when the least important pixels are removed?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from xbench.classifier import Classifier
from xbench.explainer import Explainer
from xbench.fill import Fill, make_filler, no_inpainter, valid_fill
from xbench.method import Method
from xbench.metric import METRICS, Column, Scored
from xbench.metrics._removal import Removing
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.trajectory import Removal, follow, tenths
from xbench.types import Maps


@METRICS.register("low-k-kl")
@dataclass(frozen=True)
class LowKKL(Removing):
    r"""Area under KL(p(x) || p(x_k)) against the share k of pixels removed, least important first; lower = better.

    $$\int_0^{0.9} \text{KL}(p(x) \, \| \, p(x_k)) \, dk$$

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
    curve_axis: ClassVar[tuple[str, float, float | None] | None] = ("share of the least important pixels removed", 0, 0.9)

    def __post_init__(self) -> None:
        valid_fill(self.fill)

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """The areas (b,) and the curves."""
        assert maps is not None
        pixels = maps[0].numel()
        fill = make_filler(self.fill, explainer.classifier, batch.x, ImageRandom(explainer.seed, batch.ids))
        curve = follow(explainer, batch, maps, self.family, fill, self.removals(pixels)).kl
        share = curve.new_tensor([removal.removed for removal in self.removals(pixels)]) / pixels
        return Scored({"kl": torch.trapezoid(curve, share, dim=1)}, {"kl": curve})

    @property
    def family(self) -> str:
        """See ``Removing``."""
        return self.fill

    def removals(self, pixels: int) -> list[Removal]:
        """What is removed at every point of the curve."""
        return [Removal("low", count, draw=k) for k, count in enumerate(tenths(pixels)[:10])]

    def not_applicable(self, method: Method, classifier: Classifier) -> str | None:
        """No inpainter ships for the classifier's images."""
        return no_inpainter(self.fill, classifier)

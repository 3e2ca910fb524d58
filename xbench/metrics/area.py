"""Top/low-k area: does removing the most important pixels change the output more than removing the least important?"""

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
from xbench.types import Maps


@METRICS.register("area")
@dataclass(frozen=True)
class Area(Metric):
    """Area between the curves of removing the top k % and the low k % of the pixels, k = 0, 10, .., 100; higher = better.

    With x_k the image whose k % most (top) or least (low) important pixels are replaced by ``fill``, the change at k is

    - ``probability``: p_c(x) - p_c(x_k), in [-1, 1];
    - ``logit``: z_c(x) - z_c(x_k);
    - ``kl``: KL(p(x) || p(x_k)) in nats;

    and the score is the integral over k in [0, 1], by trapezoid, of the change of top minus that of low. Pixels in random order
    score 0 on average; the negative of a map without ties has the negative score. ``kl_over_K``, the KL score divided by the
    number of classes, is reported and not ranked: it seems to be what the paper prints.

    ``curves`` holds p_c(x_k), z_c(x_k) and the KL (b, 11) as ``"probability top"``, ``"probability low"`` and so on.

    Source: "Variational Perturbations for Visual Feature Attribution" (ICLR 2022 submission). Own decisions: k % is rounded to
    whole pixels, and the integral uses the exact share; ties are broken by image (see ``ranks``).

    Args:
        fill: what replaces the removed pixels, see ``make_filler``; the paper's is ``gray``. It matters: scores of different
            fills do not compare, and a method that was trained or run with the metric's fill as its baseline has an advantage.

    Raises ValueError if ``fill`` is not one of the fills.
    """

    fill: Fill = "gray"

    columns: ClassVar[tuple[Column, ...]] = (
        Column("probability", "Top/low-k area, probability", True),
        Column("logit", "Top/low-k area, logit", True),
        Column("kl", "Top/low-k area, KL", True, "nats"),
        Column("kl_over_K", "Top/low-k area, KL / classes", None, "nats"),
    )

    def __post_init__(self) -> None:
        valid_fill(self.fill)

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """The areas (b,) and the six curves (b, 11)."""
        assert maps is not None
        classifier = explainer.classifier
        b, h, w = maps.shape
        pixels = h * w
        rng = ImageRandom(explainer.seed, batch.ids)
        order = ranks(maps, rng.uniform("ties", (pixels,)))
        fill = make_filler(self.fill, classifier, batch.x, rng)
        removed = (torch.arange(11, device=maps.device) * pixels + 5) // 10
        # 20 masks: first the whole top curve, then the inside of the low curve, which shares both its ends.
        from_top = torch.cat([removed, removed.new_zeros(9)])
        from_low = torch.cat([removed.new_zeros(11), removed[1:-1]])

        def mask_of(image: Tensor, step: Tensor) -> Tensor:
            position = order[image]
            keep = (position >= from_top[step, None]) & (position < pixels - from_low[step, None])
            return keep.view(-1, 1, h, w)

        logits = stream(classifier, batch.x, 20, mask_of, fill, all_logits)
        log_p = logits.log_softmax(2)
        target = batch.target.view(b, 1, 1).expand(b, 20, 1)
        values = {
            "probability": log_p.gather(2, target)[:, :, 0].exp(),
            "logit": logits.gather(2, target)[:, :, 0],
            "kl": (log_p[:, :1].exp() * (log_p[:, :1] - log_p)).sum(2),
        }
        top = {name: value[:, :11] for name, value in values.items()}
        low = {name: torch.cat([value[:, :1], value[:, 11:], value[:, 10:11]], 1) for name, value in values.items()}
        share = removed.to(logits) / pixels
        scores = {name: torch.trapezoid(low[name] - top[name], share, dim=1) for name in values}
        scores["kl"] = -scores["kl"]  # a change already, where the others are what remains
        scores["kl_over_K"] = scores["kl"] / classifier.classes
        curves = {f"{name} top": curve for name, curve in top.items()} | {f"{name} low": curve for name, curve in low.items()}
        return Scored(scores, curves)

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """20 forward passes: the whole image, the completely filled one, 9 with the top and 9 with the low pixels removed."""
        return Passes(forward=20)

    def not_applicable(self, method: Method, classifier: Classifier) -> str | None:
        """No inpainter ships for the classifier's images."""
        return no_inpainter(self.fill, classifier)

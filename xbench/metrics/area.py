"""Top/low-k area: does removing the most important pixels change the output more than removing the least important?"""

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


@METRICS.register("area")
@dataclass(frozen=True)
class Area(Removing):
    r"""Area between the curves of removing the top k % and the low k % of the pixels, k = 0, 10, .., 100; higher = better.

    $$\int_0^1 \left( \Delta_{\text{top}}(k) - \Delta_{\text{low}}(k) \right) dk$$

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
    curve_axis: ClassVar[tuple[str, float, float | None] | None] = ("share of the pixels removed", 0, 1)

    def __post_init__(self) -> None:
        valid_fill(self.fill)

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """The areas (b,) and the six curves (b, 11)."""
        assert maps is not None
        pixels = maps[0].numel()
        fill = make_filler(self.fill, explainer.classifier, batch.x, ImageRandom(explainer.seed, batch.ids))
        answers = follow(explainer, batch, maps, self.family, fill, self.removals(pixels))
        values = vars(answers)
        top = {name: value[:, :11] for name, value in values.items()}
        low = {name: torch.cat([value[:, :1], value[:, 11:], value[:, 10:11]], 1) for name, value in values.items()}
        share = answers.logit.new_tensor(tenths(pixels)) / pixels
        scores = {name: torch.trapezoid(low[name] - top[name], share, dim=1) for name in values}
        scores["kl"] = -scores["kl"]  # a change already, where the others are what remains
        scores["kl_over_K"] = scores["kl"] / explainer.classifier.classes
        curves = {f"{name} top": curve for name, curve in top.items()} | {f"{name} low": curve for name, curve in low.items()}
        return Scored(scores, curves)

    @property
    def family(self) -> str:
        """See ``Removing``."""
        return self.fill

    def removals(self, pixels: int) -> list[Removal]:
        """20 removals: first the whole top curve, then the inside of the low curve, which shares both its ends."""
        counts = tenths(pixels)
        top = [Removal("top", count, draw=k) for k, count in enumerate(counts)]
        return top + [Removal("low", count, draw=11 + k) for k, count in enumerate(counts[1:-1])]

    def not_applicable(self, method: Method, classifier: Classifier) -> str | None:
        """No inpainter ships for the classifier's images."""
        return no_inpainter(self.fill, classifier)

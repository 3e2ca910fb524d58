"""Deletion: how fast the class probability falls when the most important pixels are removed first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xbench.explainer import Explainer
from xbench.fill import make_filler
from xbench.metric import METRICS, Column, Scored
from xbench.metrics._removal import Removing, area_under_curve, removed_counts
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.trajectory import Removal, follow
from xbench.types import Maps


@METRICS.register("deletion")
@dataclass(frozen=True)
class Deletion(Removing):
    r"""Area under the softmax probability of the class against the share of pixels removed, most important first.

    $$\int_0^1 p_c(x_k) \, dk$$

    x_k is the image without the share k of its pixels that the map calls most important.

    Petsiuk et al. 2018 (RISE), https://arxiv.org/abs/1806.07421. Every step removes the next ceil(h*w / 28) pixels, until none
    is left; they become the classifier's mean pixel, the zero of its normalised input, as in the authors' code. The area is
    taken by trapezoid, lies in [0, 1] and is not divided by the maximum; lower = better.

    ``curves["probability"]`` (b, points) is the curve from the whole image on: 29 points at 28 and at 224 px.

    Own decisions: at most 28 steps at any size; the area uses the exact share removed, even where the last step has
    fewer pixels left (the authors' code takes all steps for equal); ties are broken by image (see ``ranks``).
    """

    columns: ClassVar[tuple[Column, ...]] = (Column("auc", "Deletion", False),)
    curve_axis: ClassVar[tuple[str, float, float | None] | None] = ("share of the pixels removed", 0, 1)

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """The areas (b,) and the curves."""
        assert maps is not None
        pixels = maps[0].numel()
        fill = make_filler("gray", explainer.classifier, batch.x, ImageRandom(explainer.seed, batch.ids))
        return area_under_curve(follow(explainer, batch, maps, self.family, fill, self.removals(pixels)), pixels)

    @property
    def family(self) -> str:
        """See ``Removing``."""
        return "gray"

    def removals(self, pixels: int) -> list[Removal]:
        """What is removed at every point of the curve."""
        return [Removal("top", count) for count in removed_counts(pixels)]

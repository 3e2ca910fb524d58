"""Deletion and insertion game: how well do the most important pixels predict the class, alone and when they are missing?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from xbench.explainer import Explainer
from xbench.fill import make_filler
from xbench.metric import METRICS, Column, Scored
from xbench.metrics._removal import Removing
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.trajectory import Removal, follow, tenths
from xbench.types import Maps


@METRICS.register("game")
@dataclass(frozen=True)
class Game(Removing):
    r"""Mean class probability when the top k % of the pixels are kept, and when they are removed, k = 0, 10, .., 100.

    $$
    \text{insertion} = \text{mean}_k \, p_c(x_k), \quad \text{deletion} = \text{mean}_k \, p_c(x_{-k}), \quad \text{overall} =
    \text{insertion} - \text{deletion}
    $$

    x_k is the image with its top k % only, x_-k that without them.

    - ``insertion``: the mean over the 11 k of p_c with only the top k % kept, in [0, 1]; higher = better.
    - ``deletion``: the mean over the 11 k of p_c with the top k % removed, in [0, 1]; lower = better.
    - ``overall``: insertion - deletion, in [-1, 1]; higher = better. Pixels in random order score 0 on average.

    Missing pixels are made up from the others by noisy linear imputation, the fill ``linear`` of `xbench.fill.make_filler`
    (Rong et al. 2022, https://arxiv.org/abs/2202.00449), so that the shape of a mask tells less about the class than with
    a constant colour. What a mask lets the classifier see need not look like its training images, with any fill: a good score
    alone does not prove a faithful map.

    ``curves`` holds p_c (b, 11) at every k as ``"insertion"`` and ``"deletion"``.

    Source: Singh and Namboodiri, Saliency as a Schedule. Own decisions: k % is rounded to whole pixels; ties are broken by
    image (see ``ranks``); the noise is drawn per image and share of missing pixels, so that it is the same for every method.
    """

    columns: ClassVar[tuple[Column, ...]] = (
        Column("insertion", "Game, insertion", True),
        Column("deletion", "Game, deletion", False),
        Column("overall", "Game, overall", True),
    )
    curve_axis: ClassVar[tuple[str, float, float | None] | None] = ("share of the pixels removed or shown", 0, 1)
    fill: ClassVar[str] = "linear"

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """The scores (b,) and the two curves (b, 11)."""
        assert maps is not None
        fill = make_filler(self.fill, explainer.classifier, batch.x, ImageRandom(explainer.seed, batch.ids))
        p = follow(explainer, batch, maps, self.family, fill, self.removals(maps[0].numel())).probability
        deletion, insertion = p[:, :11], torch.cat([p[:, 10:], p[:, :1]], 1)
        scores = {"insertion": insertion.mean(1), "deletion": deletion.mean(1)}
        scores["overall"] = scores["insertion"] - scores["deletion"]
        return Scored(scores, {"insertion": insertion, "deletion": deletion})

    @property
    def family(self) -> str:
        """See ``Removing``."""
        return self.fill

    def removals(self, pixels: int) -> list[Removal]:
        """20 removals: first all deletions, then the insertions of 10 to 90 %; both games start or end with all and nothing.

        The noise is numbered by the tenths that are missing.
        """
        counts = tenths(pixels)
        deletions = [Removal("top", count, draw=k) for k, count in enumerate(counts)]
        return deletions + [Removal("low", pixels - counts[k], draw=10 - k) for k in range(1, 10)]

"""What deletion and insertion share: the steps, the order of the pixels, the curve and the area under it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xbench.explainer import Explainer
from xbench.fill import Filler
from xbench.metric import Scored
from xbench.ops.ranking import ranks
from xbench.perturb import probability_of, stream
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.types import Maps

STEPS = 28


def removed_counts(pixels: int) -> Tensor:
    """Pixels removed at every point of the curve, int64: 0, then steps of ceil(pixels / 28), at last all ``pixels``."""
    step = -(-pixels // STEPS)
    return torch.tensor([*range(0, pixels, step), pixels])


def pixel_order(explainer: Explainer, batch: Batch, maps: Maps) -> Tensor:
    """Position (b, h*w) of every pixel, 0 = most important, ties broken by draws that belong to the image; see ``ranks``."""
    return ranks(maps, ImageRandom(explainer.seed, batch.ids).uniform("ties", (maps[0].numel(),)))


def area_under_curve(
    explainer: Explainer, batch: Batch, maps: Maps, keeps: Callable[[Tensor, Tensor], Tensor], fill: Filler
) -> Scored:
    """The score ``auc`` (b,) and the curve ``probability`` (b, points): p_c at every one of ``removed_counts``.

    ``keeps(position, count)`` says which pixels of the image are seen when ``count`` have been taken, by their position in the
    order of the map; the others show ``fill``. The area is by trapezoid against the exact share of pixels taken.
    """
    _, h, w = maps.shape
    counts = removed_counts(h * w).to(maps.device)
    order = pixel_order(explainer, batch, maps)

    def mask_of(image: Tensor, step: Tensor) -> Tensor:
        return keeps(order[image], counts[step, None]).view(-1, 1, h, w)

    curve = stream(explainer.classifier, batch.x, len(counts), mask_of, fill, probability_of(batch.target))
    return Scored({"auc": torch.trapezoid(curve, counts.to(curve) / (h * w), dim=1)}, {"probability": curve})

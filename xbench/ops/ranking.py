"""The one ranking of pixels: a strict order, so that "the n most important" is exactly n pixels whatever the ties."""

from __future__ import annotations

import torch
from torch import Tensor

from xbench.types import Maps


def ranks(maps: Maps, ties: Tensor) -> Tensor:
    """Position (b, h*w), int64, of every pixel in the descending order of its map: 0 = most important, h*w - 1 = least.

    ``ranks >= n`` is the keep mask that removes exactly the n most important pixels, ``ranks < h*w - n`` the one that removes
    exactly the n least important. Thresholding by percentile cannot: on ties it removes too many pixels or too few.

    Own decision: pixels of equal value are ordered by ``ties`` (b, h*w), the smaller draw first. The draws belong to the image,
    not to the method (``ImageRandom(seed, ids).uniform("ties", (h * w,))``): a constant map is removed in the same random order
    whichever method made it, and not in raster order, which would be a prior of its own.

    Raises ValueError if ``ties`` does not have one draw per pixel.
    """
    values = maps.flatten(1)
    if ties.shape != values.shape:
        raise ValueError(f"ties of shape {tuple(ties.shape)}: must be (b, h*w) = {tuple(values.shape)}")
    by_tie = ties.to(maps.device).argsort(dim=1, stable=True)
    order = by_tie.gather(1, values.gather(1, by_tie).argsort(dim=1, descending=True, stable=True))
    positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, positions)

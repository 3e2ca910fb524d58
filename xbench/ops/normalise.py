"""The one normalisation of attribution maps. A constant map becomes zeros; nothing ever divides by zero."""

from __future__ import annotations

import torch

from xbench.types import Maps


def minmax(maps: Maps) -> Maps:
    """Each map scaled to [0, 1] by its own minimum and maximum, (b, h, w); a constant map becomes zeros."""
    low = maps.amin((1, 2), keepdim=True)
    return _divide(maps - low, maps.amax((1, 2), keepdim=True) - low)


def _divide(maps: Maps, scale: Maps) -> Maps:
    # Where the range is 0 (or so small that dividing by it overflows) the map is constant and the numerator 0.
    usable = scale > torch.finfo(maps.dtype).tiny
    return torch.where(usable, maps / torch.where(usable, scale, torch.ones_like(scale)), torch.zeros_like(maps))

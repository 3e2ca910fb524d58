"""Gaussian blur with replicated borders, so that a constant image stays constant."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from xbench.types import Images


def gaussian_kernel(sigma: float, radius: int | None = None) -> Tensor:
    """Normalised 1-d Gaussian weights (2 * radius + 1,), float64; the default radius is ceil(4 sigma)."""
    radius = math.ceil(4 * sigma) if radius is None else radius
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum()


def gaussian_blur(x: Images, sigma: float, radius: int | None = None) -> Images:
    """Each channel of (b, c, h, w) blurred with standard deviation ``sigma`` pixels; sigma 0 returns ``x``."""
    if sigma == 0:
        return x
    kernel = gaussian_kernel(sigma, radius).to(x)
    b, c, h, w = x.shape
    planes = x.reshape(b * c, 1, h, w)
    for axis in (2, 3):
        # Replicate padding written as an index, which, unlike F.pad, also works for a radius above the image size.
        n, r = planes.shape[axis], len(kernel) // 2
        index = torch.arange(-r, n + r, device=x.device).clamp(0, n - 1)
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        planes = F.conv2d(planes.index_select(axis, index), kernel.view(shape))
    return planes.view(b, c, h, w)

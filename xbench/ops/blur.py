"""Gaussian blur with replicated borders, so that a constant image stays constant."""

from __future__ import annotations

import functools
import math

import torch
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
    h, w = x.shape[-2:]
    return _matrix(h, sigma, radius, x.dtype, x.device) @ (x @ _matrix(w, sigma, radius, x.dtype, x.device).T)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # a tensor of that mode could not take part in a backward pass later
def _matrix(n: int, sigma: float, radius: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The blur of a line of n pixels as a matrix (n, n), whose products take less time than convolutions with few channels.

    What falls beyond an end counts for the pixel there.
    """
    kernel = gaussian_kernel(sigma, radius)
    r = len(kernel) // 2
    source = (torch.arange(n)[:, None] + torch.arange(-r, r + 1)).clamp(0, n - 1)
    return torch.zeros(n, n, dtype=kernel.dtype).scatter_add_(1, source, kernel.expand(n, -1)).to(device, dtype)

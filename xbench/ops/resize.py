"""Grids of cells at the size of an image."""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from xbench.types import Images

Mode = Literal["nearest", "bilinear", "bilinear-squared", "corners"]
"""As PyTorch's ``interpolate``, ``bilinear`` with half-pixel centres, ``corners`` with the outermost cells at the corners.

With the squares of the weights, variances of independent cells become those of the values between them.
"""


def resized(grid: Float[Tensor, "*b rows columns"], x: Images, mode: Mode = "bilinear") -> Float[Tensor, "*b h w"]:
    """Grids at the size of ``x`` (b, c, h, w), as R grid C^T; differentiable.

    Nearest neighbours are exact if all values are finite, and as long as matrix products have PyTorch's default precision.
    Two products with the interpolation's matrices take less time than interpolating planes one by one.
    """
    rows, columns = (
        _weights(n, size, mode, grid.dtype, grid.device) for n, size in zip(grid.shape[-2:], x.shape[-2:], strict=True)
    )
    return rows @ (grid @ columns.T)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # a tensor of that mode could not take part in a backward pass later
def _weights(n: int, size: int, mode: Mode, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "size n"]:
    """The weights of n cells at each of ``size`` pixels of a line."""
    cells = torch.eye(n, dtype=dtype, device=device)[None]
    if mode == "nearest":
        return F.interpolate(cells, size=size, mode="nearest")[0].T
    weights = F.interpolate(cells, size=size, mode="linear", align_corners=mode == "corners")[0].T
    return weights.square() if mode == "bilinear-squared" else weights

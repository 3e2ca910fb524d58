"""Similarities of two batches of attribution maps, one value per pair of maps.

Everything is computed and returned in float64: SSIM's variances and Pearson's sums are small differences of large numbers.
Every function is symmetric in its two batches. A correlation with a constant map is undefined and NaN, never a silent 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from xbench.ops.blur import gaussian_kernel
from xbench.types import Maps, Scores

MSE_FLOOR = 1e-10
"""Smallest mean squared error that PSNR tells apart from 0 (own decision): 100 dB."""


def ssim(a: Maps, b: Maps, window: int = 11, sigma: float | None = 1.5, data_range: float = 1.0) -> Scores:
    """Mean structural similarity of maps (b, h, w) within ``data_range``, in [-1, 1] (Wang et al. 2004, K1 = 0.01, K2 = 0.03).

    With ``sigma`` the window is Gaussian and variances are those of the population, as in the paper; without, it is uniform and
    they are sample variances, scikit-image's default, which Bansal et al. 2020 call. Averaged over the pixels whose window lies
    inside the map. Two equal constant maps have SSIM 1.

    Source: https://doi.org/10.1109/TIP.2003.819861, equation 13. Raises ValueError if a map is smaller than the odd ``window``.
    """
    if window > min(a.shape[1:]):
        raise ValueError(f"maps of {a.shape[1]}x{a.shape[2]} px are smaller than the SSIM window of {window} px")
    a, b = a.double(), b.double()
    if sigma is None:
        weights, unbias = torch.full((window,), 1 / window, dtype=torch.float64), window**2 / (window**2 - 1)
    else:
        weights, unbias = gaussian_kernel(sigma, window // 2), 1.0
    mean_a, mean_b, square_a, square_b, product = _windowed(torch.stack([a, b, a * a, b * b, a * b]), weights).unbind()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    products, squares = mean_a * mean_b, mean_a.square() + mean_b.square()
    luminance = (2 * products + c1) / (squares + c1)
    structure = (2 * unbias * (product - products) + c2) / (unbias * (square_a + square_b - squares) + c2)
    return (luminance * structure).mean((1, 2))


def _windowed(planes: Tensor, weights: Tensor) -> Tensor:
    """Separable weighted sums over the windows that lie inside (..., h, w)."""
    # Sums of shifted views: float64 convolutions have no fast kernel on a CPU (20 times slower at 224 px).
    for axis in (-2, -1):
        size = planes.shape[axis] - len(weights) + 1
        total = torch.zeros_like(planes.narrow(axis, 0, size))
        for offset, weight in enumerate(weights):
            total.add_(planes.narrow(axis, offset, size), alpha=float(weight))
        planes = total
    return planes


def psnr(a: Maps, b: Maps) -> tuple[Scores, Tensor]:
    """Peak signal-to-noise ratio 10 log10(1 / MSE) in dB of maps (b, h, w) in [0, 1], and whether each was floored (b,) bool.

    The mean squared error is floored at ``MSE_FLOOR``, so that equal maps have 100 dB instead of infinity.
    """
    error = (a.double() - b.double()).square().mean((1, 2))
    return -10 * error.clamp_min(MSE_FLOOR).log10(), error < MSE_FLOOR


def pearson(a: Tensor, b: Tensor) -> Scores:
    """Pearson correlation of vectors or maps (b, ...), in [-1, 1]; NaN where either is constant."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    constant = (a.amin(1) == a.amax(1)) | (b.amin(1) == b.amax(1))
    correlation = (_standardised(a) * _standardised(b)).sum(1).clamp(-1, 1)
    return correlation.masked_fill(constant, math.nan)


def _standardised(x: Tensor) -> Tensor:
    """Rows of (b, n) with mean 0 and norm 1; not defined for constant rows."""
    x = x - x.mean(1, keepdim=True)
    x = x / x.abs().amax(1, keepdim=True)  # so that squares of tiny or huge values neither vanish nor overflow
    return F.normalize(x, dim=1)


def average_ranks(x: Tensor) -> Tensor:
    """Ranks 1..n (b, n) of the values of each row or map (b, ...), ascending; ties share the mean of their ranks."""
    ordered, positions = x.flatten(1).sort(1)
    below, not_above = torch.searchsorted(ordered, ordered), torch.searchsorted(ordered, ordered, right=True)
    ranks = (below + not_above + 1).double().div(2)
    return torch.empty_like(ranks).scatter_(1, positions, ranks)


def hog_cell(height: int) -> int:
    """Side of a HOG cell in pixels: 16 as in Bansal et al. 2020, 4 below 64 px (own decision)."""
    return 4 if height < 64 else 16


def hog(maps: Maps, cell: int) -> Tensor:
    """Histograms of oriented gradients (b, blocks * 81) of maps (b, h, w), in [0, 1] (Dalal & Triggs 2005).

    Equals ``skimage.feature.hog`` with its defaults: 9 unsigned orientations, square cells of ``cell`` pixels (a rest at the
    right or lower border is left out), overlapping blocks of 3 x 3 cells, block norm L2-Hys. Zeros for a constant map.

    Source: https://doi.org/10.1109/CVPR.2005.177. Raises ValueError if a map has fewer than 3 x 3 cells.
    """
    if min(maps.shape[1:]) < 3 * cell:
        raise ValueError(
            f"maps of {maps.shape[1]}x{maps.shape[2]} px are too small for HOG: 3x3 cells need {3 * cell} px a side"
        )
    maps = maps.double()
    dy = F.pad(maps[:, 2:] - maps[:, :-2], (0, 0, 1, 1))
    dx = F.pad(maps[:, :, 2:] - maps[:, :, :-2], (1, 1))
    lower = (dy < 0) | ((dy == 0) & (dx < 0))
    dy, dx = torch.where(lower, -dy, dy), torch.where(lower, -dx, dx)  # opposite directions count as one
    # The side of each bin's edge on which a gradient lies; unlike an arctangent this is exact where dy is 0.
    edges = [math.radians(20 * i) for i in range(1, 9)]
    orientation = sum((dy * math.cos(edge) >= dx * math.sin(edge)).to(torch.uint8) for edge in edges)
    magnitude = torch.hypot(dx, dy)
    cells = torch.stack([F.avg_pool2d(magnitude * (orientation == i), cell) for i in range(9)], -1)
    blocks = cells.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3).flatten(3)
    blocks = _block_norm(_block_norm(blocks).clamp_max(0.2))
    return blocks.flatten(1)


def _block_norm(blocks: Tensor) -> Tensor:
    return blocks / (blocks.square().sum(-1, keepdim=True) + 1e-5**2).sqrt()


def compare_views(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Scores]:
    """Per name the similarity (b,) of two views of the same maps: Pearson correlation, for ``ssim`` SSIM with uniform window 5.

    A view is what is derived once from a map that is compared with many: its ranks, its HOG descriptor, itself.
    """
    return {name: ssim(a[name], b[name], 5, None) if name == "ssim" else pearson(a[name], b[name]) for name in a}


def undefined(scores: Mapping[str, Scores], why: Mapping[str, str]) -> dict[str, dict[int, str]]:
    """Per column with a NaN, the positions of its NaN scores (b,) with the column's reason ``why``."""
    positions = {name: scores[name].isnan().nonzero()[:, 0].tolist() for name in why}
    return {name: dict.fromkeys(rows, why[name]) for name, rows in positions.items() if rows}

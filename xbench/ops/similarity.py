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
from xbench.types import Images, Maps, Scores

C1, C2 = 0.01**2, 0.03**2
"""SSIM's constants for a data range of 1."""
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""MS-SSIM's exponents from the finest scale to the coarsest (Wang et al. 2003, section 3.2); as printed, they sum to 1.0001."""
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
    if sigma is None:
        weights, unbias = torch.full((window,), 1 / window, dtype=torch.float64), window**2 / (window**2 - 1)
    else:
        weights, unbias = gaussian_kernel(sigma, window // 2), 1.0
    *means, structure = _ssim_terms(a.double() / data_range, b.double() / data_range, weights, unbias)
    return (_luminance(*means) * structure).mean((1, 2))


def ms_ssim(a: Images, b: Images) -> Scores:
    """Multi-scale structural similarity of images (b, c, h, w) in [0, 1], in [0, 1]; higher = more alike (Wang et al. 2003).

    SSIM's structure term at every scale and its luminance term at the coarsest, each averaged over the pixels, clipped at 0
    and raised to its scale's exponent, multiplied; Gaussian window of 11 px, sigma 1.5; a scale halves the one before by means
    over 2 x 2 pixels, a border of zeros making odd sizes even. Computed per channel and averaged over them. Equal to the
    package pytorch-msssim with its defaults, which takes images above 160 px only; smaller ones have as many of the five scales
    as the window fits into, and the exponents of these divided by their sum (own decision).

    Source: https://doi.org/10.1109/ACSSC.2003.1292216, equation 7. Raises ValueError if an image is smaller than the window.
    """
    weights = gaussian_kernel(1.5, 5)
    side = min(a.shape[2:])
    if side < len(weights):
        raise ValueError(f"images of {a.shape[2]}x{a.shape[3]} px are smaller than the SSIM window of {len(weights)} px")
    sides = [side]
    while len(sides) < len(SCALE_WEIGHTS) and (half := (sides[-1] + 1) // 2) >= len(weights):
        sides.append(half)
    exponents = torch.tensor(SCALE_WEIGHTS[: len(sides)], dtype=torch.float64)
    if len(sides) < len(SCALE_WEIGHTS):
        exponents /= exponents.sum()
    a, b = a.double(), b.double()
    product = a.new_ones(a.shape[:2])
    for scale, exponent in enumerate(exponents.tolist()):
        if scale:
            odd = [n % 2 for n in a.shape[2:]]
            a, b = (F.avg_pool2d(image, 2, padding=odd) for image in (a, b))
        *means, structure = _ssim_terms(a, b, weights)
        term = _luminance(*means) * structure if scale == len(sides) - 1 else structure
        product = product * term.mean((2, 3)).clamp_min(0) ** exponent
    return product.mean(1)


def _ssim_terms(a: Tensor, b: Tensor, weights: Tensor, unbias: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """SSIM's contrast-structure term in every window inside the float64 planes (..., h, w), data range 1.

    Before it what `_luminance` takes, the product of the two means and the sum of their squares.
    """
    mean_a, mean_b, squares, product = _windowed(torch.stack([a, b, a * a + b * b, a * b]), weights).unbind()
    of_means, squares_of_means = mean_a * mean_b, mean_a.square() + mean_b.square()
    covariance, variances = product.sub_(of_means), squares.sub_(squares_of_means)
    structure = covariance.mul_(2 * unbias).add_(C2).div_(variances.mul_(unbias).add_(C2))
    return of_means, squares_of_means, structure


def _luminance(product: Tensor, squares: Tensor) -> Tensor:
    return (2 * product + C1) / (squares + C1)


def _windowed(planes: Tensor, weights: Tensor) -> Tensor:
    """Separable weighted sums over the windows that lie inside (..., h, w)."""
    # Products with band matrices: float64 convolutions have no fast kernel on a CPU (20 times slower at 224 px).
    rows, columns = (_band(n, weights) for n in planes.shape[-2:])
    return rows @ (planes @ columns.T)


def _band(n: int, weights: Tensor) -> Tensor:
    """The matrix of the weighted sums over the windows inside a line of n values, (n - len(weights) + 1, n)."""
    band = weights.new_zeros(n - len(weights) + 1, n)
    for offset, weight in enumerate(weights):
        band.diagonal(offset).fill_(weight)
    return band


def psnr(a: Maps, b: Maps) -> tuple[Scores, Tensor]:
    """Peak signal-to-noise ratio 10 log10(1 / MSE) in dB of maps (b, h, w) in [0, 1], and whether each was floored (b,) bool.

    The mean squared error is floored at ``MSE_FLOOR``, so that equal maps have 100 dB instead of infinity.
    """
    error = (a.double() - b.double()).square().mean((1, 2))
    return -10 * error.clamp_min(MSE_FLOOR).log10(), error < MSE_FLOOR


def pearson(a: Tensor, b: Tensor) -> Scores:
    """Pearson correlation of vectors or maps (b, ...), in [-1, 1]; NaN where either is constant."""
    (a, constant_a), (b, constant_b) = _centred(a), _centred(b)
    norms = (torch.linalg.vecdot(a, a) * torch.linalg.vecdot(b, b)).sqrt()
    correlation: Tensor = (torch.linalg.vecdot(a, b) / norms).clamp(-1, 1)
    return correlation.masked_fill(constant_a | constant_b, math.nan)


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (b, n) with mean 0 and largest absolute value 1, and whether each is constant, for which they are not defined."""
    x = x.flatten(1).double()
    (low, high), mean = x.aminmax(dim=1, keepdim=True), x.mean(1, keepdim=True)
    # Divided, so that squares of tiny or huge values neither vanish nor overflow.
    return (x - mean).div_(torch.maximum(high - mean, mean - low)), (low == high)[:, 0]


def average_ranks(x: Tensor) -> Tensor:
    """Ranks 1..n (b, n) of the values of each row or map (b, ...), ascending; ties share the mean of their ranks."""
    ordered, positions = x.flatten(1).sort(1)
    group = torch.zeros_like(positions)
    group[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    count = torch.zeros_like(group).scatter_add_(1, group, torch.ones_like(group))
    ranks = (2 * count.cumsum(1) - count + 1).double().div(2).gather(1, group)
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

"""Smooth masks from a coarse grid: a soft maximum of bumps, the mask operator of Extremal Perturbations."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

COLDNESS = 20
CACHED = 2**17
"""Pixels of the canvases that a processor's core computes together: four float32 of each take 2 MiB (own decision)."""

Grid = Float[Tensor, "n rows columns"]
"""Mask parameters in [0, 1]."""


class SmoothMask:
    """Masks of images of ``size`` (h, w) from grids of cells ``step`` px apart, each cell a bump of width ``sigma`` px.

    Fong et al. 2019 (https://arxiv.org/abs/1910.08485), in the form of TorchRay's ``MaskGenerator``
    (https://github.com/facebookresearch/TorchRay): a pixel at distance d_k from cell k has v_k = m_k g(d_k / sigma),
    g(z) = exp(-2 max(0, z - 1/2)^2), and the mask is sum_k v_k softmax_k(20 v_k) over the square of cells around the pixel.
    The canvas is larger than the image by a margin of ``sigma`` on every side, because the area of a mask is taken on the
    canvas. Own decision: the margin is rounded to whole pixels, so that ``sigma`` may be a fraction.

    Args:
        size: (h, w) of the images.
        step: distance of the cells in pixels.
        sigma: width of a bump in pixels.
    """

    def __init__(self, size: tuple[int, int], step: int, sigma: float) -> None:
        self.size, self.step, self.margin = size, step, round(sigma)
        self.radius = 1 + math.ceil(sigma / step)
        self.padding = 1 + math.ceil((self.margin + sigma) / step)
        self.rows, self.columns = (math.ceil(length / step) for length in size)
        # Where bumps are narrower than a cell, TorchRay's padding ends before the image does (own decision: some more there).
        self.right, self.bottom = (self.padding + self._lacking(length) for length in reversed(size))
        offset = torch.arange(step, dtype=torch.float64)
        tap = torch.arange(2 * self.radius + 1, dtype=torch.float64)
        # Distance, along one axis, of the pixels of a block from the cells around it: the same for all blocks.
        distance = offset - self.margin - step * (tap[:, None] - self.padding)
        reach = (distance[:, None, :, None].square() + distance[None, :, None, :].square()).sqrt() / sigma
        self.weight = torch.exp(-2 * (reach - 0.5).clamp(min=0).square())

    def __call__(self, grid: Grid) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n area"]]:
        """The masks, and the values of the whole canvas, for grids (n, rows, columns); both differentiable."""
        padded = torch.nn.functional.pad(grid, (self.padding, self.right, self.padding, self.bottom))
        blocks: Tensor = _SoftMaximum.apply(padded, self.weight.to(grid))  # type: ignore[no-untyped-call]
        rows, columns = (length - 2 * self.radius for length in padded.shape[1:])
        canvas = blocks.unflatten(2, (rows, columns)).unflatten(0, (self.step, self.step)).permute(2, 3, 0, 4, 1)
        canvas = canvas.flatten(3, 4).flatten(1, 2)
        canvas = canvas[:, : canvas.shape[1] - self.step + 1, : canvas.shape[2] - self.step + 1]
        top, (h, w) = self.margin, self.size
        return canvas[:, top : top + h, top : top + w], canvas.flatten(1)

    def _lacking(self, length: int) -> int:
        """How many blocks of the canvas are lacking for an image of ``length`` pixels, if it is padded alike on both sides."""
        blocks = math.ceil(length / self.step) + 2 * (self.padding - self.radius)
        return max(0, math.ceil((self.margin + length + self.step - 1) / self.step) - blocks)


class _SoftMaximum(torch.autograd.Function):
    """sum_k v_k e^(20 v_k) / sum_k e^(20 v_k), one k after the other: all v_k at once would take 81 canvases.

    From the padded grid (n, rows, columns) to (step * step, n, i * j): the blocks of pixels come last, because loops over the
    few pixels of a block are slow. u_k = 20 v_k is in [0, 20], so that no exponential overflows.
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weight: Tensor) -> Tensor:
        hot = COLDNESS * weight.flatten(2)[..., None, None]  # of every cell 20 g at the pixels of a block: (step * step, 1, 1)
        found = [_soft_maximum(some, hot) for some in padded.split(_together(padded, hot))]
        mask, denominator = (torch.cat(values, 1) for values in zip(*found, strict=True))
        ctx.save_for_backward(padded, hot, mask, denominator)
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        padded, hot, mask, denominator = ctx.saved_tensors
        n = _together(padded, hot)
        parts = zip(padded.split(n), mask.split(n, 1), (gradients[0] / denominator).split(n, 1), strict=True)
        return torch.cat([_gradient(some, hot, *of) for some, *of in parts]), None


def _soft_maximum(padded: Tensor, hot: Tensor) -> tuple[Tensor, Tensor]:
    """The soft maximum and its denominator, both (step * step, n, i * j)."""
    cells = _cells(padded, len(hot))
    total, denominator, u, power = (padded.new_zeros(hot.shape[2], len(padded), cells[0][0].numel()) for _ in range(4))
    for cell, w in zip(cells, hot.flatten(0, 1).unbind(), strict=True):
        torch.exp(torch.mul(cell.flatten(1), w, out=u), out=power)
        denominator.add_(power)
        total.addcmul_(u, power)
    return total.div_(denominator).div_(COLDNESS), denominator


def _gradient(padded: Tensor, hot: Tensor, mask: Tensor, share: Tensor) -> Tensor:
    """By the padded grid: of every cell the sum over the pixels around it of share g e^u (1 + u - 20 mask).

    ``share`` is the gradient by the mask over the denominator.
    """
    result, level, share = torch.zeros_like(padded), COLDNESS * mask - 1, share.contiguous()
    u, power = torch.empty_like(level), torch.empty_like(level)
    weights = hot.flatten(0, 1).unbind()
    for cell, w, found in zip(_cells(padded, len(hot)), weights, _cells(result, len(hot)), strict=True):
        torch.exp(torch.mul(cell.flatten(1), w, out=u), out=power)
        u.sub_(level).mul_(power.mul_(share))
        found.add_(torch.mv(u.flatten(1).T, w.flatten()).view_as(found))
    return result.div_(COLDNESS)


def _cells(padded: Tensor, taps: int) -> list[Tensor]:
    """Of every cell of the square around a pixel the views (n, i, j) of its values for all blocks."""
    _, rows, columns = padded.shape
    windows = padded.unfold(1, rows - taps + 1, 1).unfold(2, columns - taps + 1, 1)
    return [cell for row in windows.unbind(1) for cell in row.unbind(1)]


def _together(padded: Tensor, hot: Tensor) -> int:
    """How many grids to take at a time: on a processor as many as have their canvases in its cache, on other devices all."""
    n, rows, columns = padded.shape
    pixels = hot.shape[2] * (rows - len(hot) + 1) * (columns - len(hot) + 1)
    return max(1, CACHED * torch.get_num_threads() // pixels) if padded.device.type == "cpu" else n

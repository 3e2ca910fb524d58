"""Smooth masks from a coarse grid: a soft maximum of bumps, the mask operator of Extremal Perturbations."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

COLDNESS = 20

Grid = Float[Tensor, "n rows columns"]
"""Mask parameters in [0, 1]."""
Bumps = list[tuple[float, list[tuple[int, ...]]]]


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
        weight = torch.exp(-2 * (reach - 0.5).clamp(min=0).square())
        self.bumps = [(level, [tuple(at) for at in (weight == level).nonzero().tolist()]) for level in weight.unique().tolist()]

    def __call__(self, grid: Grid) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n area"]]:
        """The masks, and the values of the whole canvas, for grids (n, rows, columns); both differentiable."""
        padded = torch.nn.functional.pad(grid, (self.padding, self.right, self.padding, self.bottom))
        # The grids last: everything below runs along them.
        blocks: Tensor = _SoftMaximum.apply(padded.permute(1, 2, 0), self.bumps, self.step, 2 * self.radius)  # type: ignore[no-untyped-call]
        canvas = blocks.permute(4, 2, 0, 3, 1).flatten(3, 4).flatten(1, 2)
        canvas = canvas[:, : canvas.shape[1] - self.step + 1, : canvas.shape[2] - self.step + 1]
        top, (h, w) = self.margin, self.size
        return canvas[:, top : top + h, top : top + w], canvas.flatten(1)

    def _lacking(self, length: int) -> int:
        """How many blocks of the canvas are lacking for an image of ``length`` pixels, if it is padded alike on both sides."""
        blocks = math.ceil(length / self.step) + 2 * (self.padding - self.radius)
        return max(0, math.ceil((self.margin + length + self.step - 1) / self.step) - blocks)


class _SoftMaximum(torch.autograd.Function):
    """sum_k v_k e^(20 v_k) / sum_k e^(20 v_k), one distance after the other: v_k is the same for all cells at that distance.

    From the padded grid (rows, columns, n) to (step, step, i, j, n), the pixels of every block. ``bumps`` are the values of g,
    each with its places: row and column of a cell in the square around a block, row and column of a pixel in the block.
    v_k is in [0, 1], so that no exponential overflows.
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor, bumps: Bumps, step: int, reach: int) -> Tensor:
        padded = padded.contiguous()
        rows, columns = (length - reach for length in padded.shape[:2])
        sums = padded.new_zeros(2, step, step, rows, columns, padded.shape[2])
        for level, places in bumps:
            power = torch.exp(COLDNESS * level * padded)
            terms = torch.stack([padded * power * level, power])
            for i, j, row, column in places:
                sums[:, row, column] += terms[:, i : i + rows, j : j + columns]
        mask = sums[0] / sums[1]
        ctx.save_for_backward(padded, mask, sums[1])
        ctx.bumps, ctx.reach = bumps, reach
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        padded, mask, denominator = ctx.saved_tensors
        rows, columns = (length - ctx.reach for length in padded.shape[:2])
        share = gradients[0] / denominator
        shares = torch.stack([share, share * mask])
        result = torch.zeros_like(padded)
        for level, places in ctx.bumps:
            sums = padded.new_zeros(2, *padded.shape)
            for i, j, row, column in places:
                sums[:, i : i + rows, j : j + columns] += shares[:, row, column]
            v = level * padded
            slope = (1 + COLDNESS * v) * sums[0] - COLDNESS * sums[1]
            result += level * torch.exp(COLDNESS * v) * slope
        return result, None, None, None

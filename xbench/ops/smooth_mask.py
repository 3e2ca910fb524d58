"""Smooth masks from a coarse grid: a soft maximum of bumps, the mask operator of Extremal Perturbations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

COLDNESS = 20

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
        canvas = blocks.permute(0, 3, 1, 4, 2).flatten(3, 4).flatten(1, 2)
        canvas = canvas[:, : canvas.shape[1] - self.step + 1, : canvas.shape[2] - self.step + 1]
        top, (h, w) = self.margin, self.size
        return canvas[:, top : top + h, top : top + w], canvas.flatten(1)

    def _lacking(self, length: int) -> int:
        """How many blocks of the canvas are lacking for an image of ``length`` pixels, if it is padded alike on both sides."""
        blocks = math.ceil(length / self.step) + 2 * (self.padding - self.radius)
        return max(0, math.ceil((self.margin + length + self.step - 1) / self.step) - blocks)


class _SoftMaximum(torch.autograd.Function):
    """sum_k v_k e^(20 v_k) / sum_k e^(20 v_k), one k after the other: all v_k at once would take 81 canvases.

    From the padded grid to (n, step, step, i, j): the blocks of pixels come last, because loops over the few pixels of a block
    are slow. v_k is in [0, 1], so that no exponential overflows.
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weight: Tensor) -> Tensor:
        total, denominator = padded.new_zeros(()), padded.new_zeros(())
        for _, _, v in _taps(padded, weight):
            power = (COLDNESS * v).exp_()
            total, denominator = total + v.mul_(power), denominator + power
        mask = total / denominator
        ctx.save_for_backward(padded, weight, mask, denominator)
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        padded, weight, mask, denominator = ctx.saved_tensors
        share = gradients[0].contiguous() / denominator
        result = torch.zeros_like(padded)
        for part, w, v in _taps(padded, weight):
            slope = (COLDNESS * v).exp_().mul_(share).mul_(v.sub_(mask).mul_(COLDNESS).add_(1))
            result[part] += slope.mul_(w).sum(2).sum(1)
        return result, None


def _taps(padded: Tensor, weight: Tensor) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """For each cell of the square around a pixel: where it is in the padded grid, its weight g and v (n, step, step, i, j)."""
    taps = len(weight)
    i, j = (n - taps + 1 for n in padded.shape[1:])
    for row in range(taps):
        for column in range(taps):
            part = (slice(None), slice(row, row + i), slice(column, column + j))
            w = weight[row, column, :, :, None, None]
            yield part, w, padded[part].contiguous()[:, None, None] * w

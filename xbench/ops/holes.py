"""Random holes to train and to test inpainting with: rectangles, brush strokes and scattered cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from xbench.types import Masks

Uniform = Callable[[str, Sequence[int]], Tensor]
"""(stream, shape of one image's draws) -> uniform draws in [0, 1), (n, *shape)."""

SHARES = (0.05, 0.8)
"""Range of the random holes' share of the image (own decision)."""
RECTANGLES = 4
BRUSH_STEPS = 64
CELL_SIZES = (1.0, 8.0)
"""Range of the cells' side, in pixels at 28 px, scaled with the height."""


def random_holes(uniform: Uniform, size: tuple[int, int]) -> Masks:
    """Keep masks (n, 1, h, w) of images of ``size`` (h, w): a hole of a random kind and share for each.

    The kinds are `rectangles`, `strokes` and `cells` with equal probability, the share is uniform in 0.05..0.8 (own decisions).
    """
    kind, share = uniform("holes", (2,)).unbind(1)
    share = SHARES[0] + (SHARES[1] - SHARES[0]) * share
    number, masks = (kind * len(HOLES)).long(), torch.ones(len(kind), 1, *size)
    for i, make in enumerate(HOLES.values()):
        chosen = (number == i).nonzero()[:, 0]
        masks[chosen] = make(_only(uniform, chosen), size, share[chosen])
    return masks


def rectangles(uniform: Uniform, size: tuple[int, int], share: Tensor) -> Masks:
    """Keep masks (n, 1, h, w) with 1 to 4 rectangular holes within the image that cover up to ``share`` (n,) of it.

    The rectangles have equal areas and sides whose ratio is 1/2 to 2 times the image's; they may overlap.
    """
    draws = uniform("rectangles", (RECTANGLES, 4))
    count = (draws[:, 0, 3] * RECTANGLES).long() + 1
    side = (share / count).sqrt()[:, None]
    stretch = 2 ** (draws[..., 0] - 0.5)  # of the height; the width gets its inverse
    rows, columns = (
        _spans((extent.clamp(max=1) * n).round().clamp(min=1), place, n)
        for extent, place, n in zip((side * stretch, side / stretch), draws[..., 1:3].unbind(2), size, strict=True)
    )
    used = torch.arange(RECTANGLES) < count[:, None]
    hole = (rows[..., :, None] & columns[..., None, :] & used[..., None, None]).any(1)
    return (~hole[:, None]).float()


def strokes(uniform: Uniform, size: tuple[int, int], share: Tensor) -> Masks:
    """Keep masks (n, 1, h, w) with a brush stroke as hole: a random walk that ends when it covers ``share`` (n,).

    In the manner of the free-form masks of Yu et al. 2019 (https://arxiv.org/abs/1806.03589, algorithm 1). Own decisions: one
    stroke an image with a radius of 1/20 to 1/8 of the height; it moves by 1.5 radii and turns by up to 60 degrees a step, is
    put down elsewhere after 8 steps, and has at most 64 steps, so that a thin one may stay below a large share.
    """
    h, w = size
    shape, walk = uniform("stroke", (2,)), uniform("walk", (BRUSH_STEPS, 3))
    radius = h * (1 / 20 + shape[:, 0] * (1 / 8 - 1 / 20))
    angle = 2 * math.pi * shape[:, 1]
    row, column = torch.arange(h)[:, None] + 0.5, torch.arange(w) + 0.5
    hole = torch.zeros(len(share), h, w, dtype=torch.bool)
    y, x = torch.zeros(2, len(share))
    for step in range(BRUSH_STEPS):
        if step % 8 == 0:
            y, x = walk[:, step, 1] * h, walk[:, step, 2] * w
        angle = angle + (2 * walk[:, step, 0] - 1) * math.pi / 3
        # Bounces off the borders.
        y, x = _folded(y + 1.5 * radius * angle.sin(), h), _folded(x + 1.5 * radius * angle.cos(), w)
        distance = (row - y[:, None, None]).square() + (column - x[:, None, None]).square()
        unfinished = hole.float().mean((1, 2)) < share
        hole |= (distance <= radius.square()[:, None, None]) & unfinished[:, None, None]
    return (~hole[:, None]).float()


def cells(uniform: Uniform, size: tuple[int, int], share: Tensor) -> Masks:
    """Keep masks (n, 1, h, w) of cells that are each missing with probability ``share`` (n,), like superpixels in LIME.

    The cells are the Voronoi cells of a jittered grid. Own decision: their side is log-uniform between 1 and 8 px at 28 px.
    """
    h, w = size
    low, high = (side * h / 28 for side in CELL_SIZES)
    count = math.ceil(max(h, w) / low) + 3  # one cell more than the image on every side, and one for the offset
    shape, draws = uniform("cells", (3,)), uniform("seeds", (count, count, 3))
    side = low * (high / low) ** shape[:, 0, None]
    row, column = (
        (torch.arange(n) + 0.5) / side + offset[:, None] for n, offset in zip(size, shape[:, 1:].unbind(1), strict=True)
    )
    image = torch.arange(len(share))[:, None, None]
    nearest = torch.full((len(share), h, w), math.inf)
    missing = torch.zeros(len(share), h, w, dtype=torch.bool)
    for i in (0, 1, 2):
        for j in (0, 1, 2):
            cell_row, cell_column = row.long()[:, :, None] + i, column.long()[:, None, :] + j
            y, x, value = draws[image, cell_row, cell_column].unbind(3)
            distance = (row[:, :, None] + 1 - cell_row - y).square() + (column[:, None, :] + 1 - cell_column - x).square()
            missing = torch.where(distance < nearest, value < share[:, None, None], missing)
            nearest = torch.minimum(distance, nearest)
    return (~missing[:, None]).float()


HOLES = {"rectangles": rectangles, "strokes": strokes, "cells": cells}
"""The kinds of holes by name: (uniform, (h, w), share (n,)) -> keep masks (n, 1, h, w)."""


def _only(uniform: Uniform, chosen: Tensor) -> Uniform:
    """The draws of some of the images."""
    return lambda stream, shape: uniform(stream, shape)[chosen]


def _spans(length: Tensor, place: Tensor, n: int) -> Tensor:
    """Which of ``n`` positions lie in spans of ``length``, somewhere between the ends by ``place`` in [0, 1); (..., n)."""
    start = ((n - length) * place).round()[..., None]
    position = torch.arange(n)
    return (position >= start) & (position < start + length[..., None])


def _folded(position: Tensor, n: int) -> Tensor:
    """Positions reflected at 0 and ``n``."""
    return n - (n - position.abs()).abs()

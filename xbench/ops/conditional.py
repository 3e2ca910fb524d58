"""Windows of an image drawn from a Gaussian conditional on the pixels around them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from xbench.types import Images

RIDGE = 0.01
"""Share of the mean variance that is added to each."""
FLOOR = 1e-6
"""Variance that is added where an image is constant."""
PATCHES = 20_000
"""Of an image, at most, to which its Gaussian is fitted."""
IMAGES = 16
"""Whose patches are held at a time."""

Sampler = Callable[[Tensor, Tensor, Tensor, Float[Tensor, "n c pixels"]], Images]
"""(image indices (n,), first rows (n,) and first columns (n,) of windows, standard normal values) -> images (n, c, h, w)."""


@torch.no_grad()
def conditional_windows(x: Images, window: int, padding: int) -> Sampler:
    """A function that replaces windows of the images ``x`` by samples, given standard normal values for their pixels.

    The patch of a window is the window and a frame of ``padding`` pixels, moved inside where the frame would leave the image.
    For each image and channel a Gaussian is fitted to the patches of the image (every s-th along both axes, so that they are at
    most 20000); a window's pixels follow it conditional on the rest of their patch. To the diagonal of the covariance come 1 %
    of its mean and 1e-6, so that it can be inverted. Raises ValueError if a patch is larger than the image.
    """
    _, c, h, w = x.shape
    side = window + 2 * padding
    if side > min(h, w):
        raise ValueError(f"window + 2 padding must be at most {min(h, w)}, the side of the image, got {side}")
    mean, covariance = (torch.cat(parts) for parts in zip(*(_fitted(part, side) for part in x.split(IMAGES)), strict=True))
    inside, around, regression, factor = [], [], [], []
    cell = torch.arange(side**2, device=x.device).view(side, side)
    # Windows near the border lie off the centre of their patch.
    for down in range(2 * padding + 1):
        for right in range(2 * padding + 1):
            chosen = torch.zeros_like(cell, dtype=torch.bool)
            chosen[down : down + window, right : right + window] = True
            i, a = cell[chosen], cell[~chosen]
            cross, frame = covariance[..., i[:, None], a], covariance[..., a[:, None], a]
            # Not by `torch.linalg.solve`, which for many unknowns hangs (https://github.com/pytorch/pytorch/issues/141358).
            weights = torch.cholesky_solve(cross.mT, torch.linalg.cholesky(frame)).mT if len(a) else cross
            rest = covariance[..., i[:, None], i] - weights @ cross.mT
            inside.append(i)
            around.append(a)
            regression.append(weights)
            factor.append(torch.linalg.cholesky((rest + rest.mT) / 2))
    index, frames = torch.stack(inside), torch.stack(around)
    regressions, factors = torch.stack(regression, 1).to(x), torch.stack(factor, 1).to(x)  # (b, offsets, c, ..)
    mean = mean.to(x)
    flat = x.flatten(2)

    def sample(image: Tensor, top: Tensor, left: Tensor, noise: Float[Tensor, "n c pixels"]) -> Images:
        row, column = ((start - padding).clamp(0, n - side) for start, n in ((top, h), (left, w)))
        offset = (top - row) * (2 * padding + 1) + left - column
        inner, outer = index[offset], frames[offset]

        def pixels(cells: Tensor) -> Tensor:
            """Where the cells (n, m) of each patch are in the flattened image, for every channel."""
            at = (row[:, None] + cells // side) * w + column[:, None] + cells % side
            return at[:, None].expand(-1, c, -1)

        centre, images = mean.index_select(0, image), flat.index_select(0, image)
        surprise = images.gather(2, pixels(outer)) - centre.gather(2, outer[:, None].expand(-1, c, -1))
        values = centre.gather(2, inner[:, None].expand(-1, c, -1))
        values = values + (regressions[image, offset] @ surprise[..., None] + factors[image, offset] @ noise[..., None])[..., 0]
        return images.scatter(2, pixels(inner), values).view(-1, c, h, w)

    return sample


def _fitted(x: Images, side: int) -> tuple[Float[Tensor, "b c pixels"], Float[Tensor, "b c pixels pixels"]]:
    """Mean and covariance of the patches of each image and channel, in float64."""
    positions = (x.shape[2] - side + 1) * (x.shape[3] - side + 1)
    every = math.ceil(math.sqrt(positions / PATCHES))
    patches = x.double().unfold(2, side, every).unfold(3, side, every).flatten(4).flatten(2, 3)
    mean = patches.mean(2)
    centred = patches - mean[:, :, None]
    covariance = centred.mT @ centred / max(1, patches.shape[2] - 1)
    diagonal = covariance.diagonal(dim1=2, dim2=3)
    ridge = RIDGE * diagonal.mean(2, keepdim=True) + FLOOR
    return mean, covariance + torch.diag_embed(ridge.expand_as(diagonal))

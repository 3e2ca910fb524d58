"""Superpixels, and the random samples of LIME that keep half of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Int64
from skimage.segmentation import slic
from torch import Tensor

from xbench.types import Images

SEGMENTS = 50
"""How many superpixels LIME asks for."""


def superpixels(x: Images, segments: int, sigma: float, compactness: float) -> Int64[Tensor, "b hw"]:
    """SLIC labels (b, h * w) of each image, int64 on the CPU, counted from 0 without gaps."""
    images = np.moveaxis(x.detach().cpu().double().numpy(), 1, -1)
    labels = [slic(i, segments, compactness=compactness, sigma=sigma, start_label=0, channel_axis=-1) for i in images]
    return torch.from_numpy(np.stack(labels)).long().flatten(1)


def default_sigma(shape: tuple[int, int, int]) -> float:
    """Standard deviation in pixels of the blur before SLIC: 3 as in the code of Agarwal and Nguyen, 0 below 64 px."""
    return 3.0 if shape[-1] >= 64 else 0.0


def default_compactness(shape: tuple[int, int, int]) -> float:
    """SLIC's weight of space against colour: 30 as in that code, whose colours are Lab; 0.1 without three channels."""
    return 30.0 if shape[0] == 3 else 0.1


def default_samples(shape: tuple[int, int, int]) -> int:
    """LIME's number of perturbed images: 1000 as in the paper, 500 below 64 px."""
    return 1000 if shape[-1] >= 64 else 500


def column_draws(draw: Callable[..., Tensor], rows: int, columns: int, segments: int) -> Tensor:
    """Uniform values (b, rows, columns) from ``draw(stream, shape, step)``, which gives such values per image.

    They come in blocks of ``segments`` columns, so that an image's own are the same whatever ``columns`` its batch needs.
    """
    blocks = range(-(-columns // segments))
    return torch.cat([draw("kept", (rows, segments), step=block) for block in blocks], 2)[:, :, :columns]


def kept_superpixels(
    count: Tensor, samples: int, segments: int, draw: Callable[..., Tensor]
) -> Bool[Tensor, "b samples superpixels"]:
    """Which superpixels each sample keeps, on the CPU: all in the first, each with probability 1/2 in the others.

    ``count`` (b,) is each image's number of superpixels, of which ``segments`` were asked for; columns above it are False.
    For ``draw`` see ``column_draws``.
    """
    width = int(count.max())
    kept = column_draws(draw, samples, width, segments) < 0.5
    kept[:, 0] = True
    return kept & (torch.arange(width) < count[:, None, None])

"""The image that replaces removed pixels: one family, one interface, used by methods and metrics."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from xbench.ops.blur import gaussian_blur
from xbench.types import Images

Fill = Literal["blur", "gray", "mean", "mean-noise", "noise", "zero"]
"""The names of the fills, as annotation of a parameter."""
FILLS: tuple[Fill, ...] = typing.get_args(Fill)
Normal = Callable[[Sequence[int]], Tensor]
"""(shape of one image) -> standard normal draws (b, *shape)."""

NOISE = 0.2


def make_fill(name: Fill, x: Images, gray: Tensor, normal: Normal) -> Images:
    """The replacement of every pixel of ``x`` (b, c, h, w) in [0, 1], same shape, type and device.

    - ``blur``: the image under a Gaussian of 10 px at 224 px, scaled with the height (own decision).
    - ``gray``: the classifier's mean pixel ``gray`` (c, 1, 1), the zero of its normalised input.
    - ``mean``: each image's own mean per channel.
    - ``mean-noise``: that mean plus N(0, 0.2) per value (own decision: the strength).
    - ``noise``: N(0.5, 0.2) per value (own decision: both numbers).
    - ``zero``: black.

    The noise is not clipped to [0, 1], because clipping would shift the mean of dark images (own decision). ``normal`` is
    called with (c, h, w) by the two noisy fills only.

    Raises ValueError for another name.
    """
    match name:
        case "blur":
            return gaussian_blur(x, blur_sigma(x.shape[-2]))
        case "gray":
            return gray.to(x).expand_as(x)
        case "mean":
            return x.mean((2, 3), keepdim=True).expand_as(x)
        case "mean-noise":
            return x.mean((2, 3), keepdim=True) + NOISE * normal(x.shape[1:]).to(x)
        case "noise":
            return 0.5 + NOISE * normal(x.shape[1:]).to(x)
        case "zero":
            return x.new_zeros(()).expand_as(x)
        case _:
            raise ValueError(f"fill must be one of {', '.join(FILLS)}, got {name!r}")


def blur_sigma(height: int) -> float:
    """Standard deviation in pixels of the fill ``blur``: 10 px at 224 px (Fong and Vedaldi 2017, scaled with the height)."""
    return 10 * height / 224

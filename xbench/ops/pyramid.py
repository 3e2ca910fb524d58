"""A pyramid of blurred copies of an image, and images whose every pixel is as sharp as a mask says."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from xbench.ops.blur import gaussian_blur
from xbench.types import Images

LEVELS = 8
"""Levels of the pyramid, as in TorchRay."""

Pyramid = Float[Tensor, "b l c h w"]
"""Blurred copies of images, from the most blurred (level 0) to the image itself (the last level)."""


def max_blur(height: int) -> float:
    """Standard deviation of the most blurred level in pixels: TorchRay's 20 px at 224 px, scaled with the height."""
    return 20 * height / 224


def blur_pyramid(x: Images, levels: int = LEVELS) -> Pyramid:
    """Images (b, c, h, w) under Gaussians of max_blur(h) (1 - l / (levels - 1)) pixels: (b, levels, c, h, w).

    Fong et al. 2019 (https://arxiv.org/abs/1910.08485), in the form of TorchRay's ``Perturbation``
    (https://github.com/facebookresearch/TorchRay). Own decision: borders are replicated, where TorchRay pads with zeros, which
    darkens the blurred copies towards the border. Raises ValueError for fewer than 2 levels.
    """
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    widest = max_blur(x.shape[-2])
    return torch.stack([gaussian_blur(x, widest * (1 - level / (levels - 1))) for level in range(levels)], 1)


def sharpened(pyramid: Pyramid, masks: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k c h w"]:
    """Each image under its ``masks`` in [0, 1]: pixel by pixel the level m (l - 1) of its pyramid, between two levels linearly.

    A mask of 1 gives the image exactly, one of 0 the most blurred level. Differentiable in ``masks``.
    """
    top = pyramid.shape[1] - 1
    level = masks[:, :, None] * top
    below = level.detach().floor().clamp(0, top - 1)
    index = below.long().expand(-1, -1, pyramid.shape[2], -1, -1)
    return torch.lerp(pyramid.gather(1, index), pyramid.gather(1, index + 1), level - below)

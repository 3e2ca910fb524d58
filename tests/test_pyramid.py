"""The blur pyramid against scipy's Gaussian filter, and its interpolation against a loop over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from xbench.ops.pyramid import blur_pyramid, max_blur, sharpened


def images(count: int, channels: int, height: int, width: int) -> Tensor:
    return torch.rand(count, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_most_blurred_level_is_20_px_at_224_px() -> None:
    assert max_blur(224) == 20
    assert max_blur(28) == 2.5


@pytest.mark.parametrize(("shape", "levels"), [((1, 28, 28), 8), ((3, 32, 24), 8), ((1, 64, 64), 3)])
def test_levels_equal_scipys_gaussian_filter(shape: tuple[int, int, int], levels: int) -> None:
    x = images(2, *shape)
    pyramid = blur_pyramid(x, levels)
    assert pyramid.shape == (2, levels, *shape)
    assert torch.equal(pyramid[:, -1], x)
    for level in range(levels):
        sigma = 20 * shape[1] / 224 * (1 - level / (levels - 1))
        for image, blurred in zip(x.numpy(), pyramid[:, level].numpy(), strict=True):
            for channel, expected in zip(image, blurred, strict=True):
                filtered = gaussian_filter(channel, sigma, mode="nearest", radius=math.ceil(4 * sigma)) if sigma else channel
                np.testing.assert_allclose(expected, filtered, atol=1e-12)


def test_interpolation_equals_a_loop_over_pixels() -> None:
    x = images(2, 3, 9, 8)
    pyramid, masks = blur_pyramid(x), images(2, 4, 9, 8)
    masks[:, :, 0, 0], masks[:, :, 0, 1], masks[:, :, 0, 2] = 0, 1, 3 / 7
    found = sharpened(pyramid, masks)
    assert found.shape == (2, 4, 3, 9, 8)
    for image in range(2):
        for k in range(4):
            for r in range(9):
                for c in range(8):
                    position = 7 * float(masks[image, k, r, c])
                    weight = [max(0.0, 1 - abs(position - level)) for level in range(8)]
                    expected = sum(w * pyramid[image, level, :, r, c] for level, w in enumerate(weight))
                    torch.testing.assert_close(found[image, k, :, r, c], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_mask_gives_a_level_and_one_the_image_itself(dtype: torch.dtype) -> None:
    x = images(2, 3, 28, 28).to(dtype)
    pyramid = blur_pyramid(x)
    for level in range(8):
        found = sharpened(pyramid, torch.full((2, 1, 28, 28), level / 7, dtype=dtype))[:, 0]
        torch.testing.assert_close(found, pyramid[:, level])
    assert torch.equal(sharpened(pyramid, torch.ones(2, 1, 28, 28, dtype=dtype))[:, 0], x)
    assert torch.equal(sharpened(pyramid, torch.zeros(2, 1, 28, 28, dtype=dtype))[:, 0], pyramid[:, 0])


def test_a_constant_image_stays_constant_under_any_mask() -> None:
    x = torch.full((1, 2, 32, 32), 0.7)
    found = sharpened(blur_pyramid(x), images(1, 5, 32, 32).float())
    torch.testing.assert_close(found, x[:, None].expand_as(found), rtol=0, atol=1e-6)


def test_gradient_equals_finite_differences() -> None:
    pyramid = blur_pyramid(images(2, 2, 4, 4))
    masks = ((images(2, 3, 4, 4) * 7).floor().clamp(0, 6) + 0.4) / 7  # between two levels, where the derivative jumps
    assert torch.autograd.gradcheck(lambda m: sharpened(pyramid, m), (masks.requires_grad_(),))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64).view(1, 2, 1, 1).repeat(2, 1, 4, 4).requires_grad_()
    (slope,) = torch.autograd.grad(sharpened(pyramid, ends).sum(), ends)
    expected = torch.stack([pyramid[:, 1] - pyramid[:, 0], pyramid[:, 7] - pyramid[:, 6]], 1).sum(2) * 7
    torch.testing.assert_close(slope, expected)


def test_a_pyramid_needs_two_levels() -> None:
    with pytest.raises(ValueError, match="levels must be at least 2, got 1"):
        blur_pyramid(images(1, 1, 8, 8), 1)

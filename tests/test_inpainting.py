"""Classical inpainting, against images whose continuation is known and against the libraries called image by image."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from xbench.ops.inpainting import biharmonic, telea
from xbench.testing import tiny_images

BOTH = pytest.mark.parametrize("inpaint", [biharmonic, telea])
Inpaint = Callable[[Tensor, Tensor], Tensor]


def masks(n: int, h: int, w: int) -> Tensor:
    """Masks (n, 1, h, w) with a hole of two squares and a dot, at other places in every image."""
    keep = torch.ones(n, 1, h, w)
    for i in range(n):
        keep[i, :, 3 + i : 7 + i, 4:9] = 0
        keep[i, :, h - 5 :, w - 6 + i :] = 0
        keep[i, :, 0, i] = 0
    return keep


def test_biharmonic_continues_polynomials_of_the_third_degree() -> None:
    row, column = (
        torch.linspace(-0.5, 0.5, 30, dtype=torch.float64)[:, None],
        torch.linspace(-0.5, 0.5, 26, dtype=torch.float64),
    )
    x = torch.stack([0.5 + 3 * row**3 - 2 * row * column**2, 0.5 + row**2 * column + 0.3 * column])[None]
    keep = torch.ones(1, 1, 30, 26)
    keep[..., 8:17, 10:18] = keep[..., 20:22, 5] = 0
    assert (x * (1 - keep)).std() > 0.01
    torch.testing.assert_close(biharmonic(x, keep), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(biharmonic(x.float(), keep), x.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_biharmonic_is_that_of_scikit_image_for_every_channel(channels: int) -> None:
    x, keep = tiny_images(3, (channels, 28, 24)).double(), masks(3, 28, 24)
    found = biharmonic(x, keep)
    for i in range(3):
        for c in range(channels):
            expected = inpaint_biharmonic(x[i, c].numpy(), keep[i, 0].numpy() == 0)
            torch.testing.assert_close(found[i, c], torch.from_numpy(expected))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_telea_is_that_of_opencv_on_eight_bits(channels: int, dtype: torch.dtype) -> None:
    x, keep = tiny_images(3, (channels, 28, 24)).to(dtype) * 1.2 - 0.1, masks(3, 28, 24)
    found = telea(x, keep)
    assert found.dtype == dtype
    for i in range(3):
        mean = x[i][:, keep[i, 0] == 1].double().mean(1)[:, None, None]
        levels = (torch.where(keep[i] == 1, x[i].double(), mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        levels = levels if channels == 3 else levels[:, :, 0]
        expected = cv2.inpaint(levels, (keep[i, 0].numpy() == 0).astype(np.uint8), 3, cv2.INPAINT_TELEA).reshape(28, 24, -1)
        steps = torch.from_numpy(expected).permute(2, 0, 1).to(dtype) / 255
        torch.testing.assert_close(found[i], torch.where(keep[i] == 1, x[i], steps))


def test_telea_keeps_flat_images_flat_to_two_levels() -> None:
    x = torch.full((1, 3, 28, 28), 0.5)
    x[:, 1:] = torch.tensor([0.2, 1.3]).view(1, 2, 1, 1)
    keep = masks(1, 28, 28)
    found = telea(x, keep)
    expected = torch.tensor([128 / 255, 51 / 255, 1.0]).view(1, 3, 1, 1).expand_as(x)
    torch.testing.assert_close(found, torch.where(keep == 1, x, expected), rtol=0, atol=2.01 / 255)


def test_telea_refuses_other_channels() -> None:
    with pytest.raises(ValueError, match="1 or 3 channels"):
        telea(torch.rand(1, 2, 8, 8), torch.ones(1, 1, 8, 8))


@BOTH
def test_observed_pixels_are_exact_and_missing_ones_made_up_from_them(inpaint: Inpaint) -> None:
    x, keep = tiny_images(3, (3, 32, 32)), masks(3, 32, 32)
    found = inpaint(x, keep)
    kept = (keep == 1).expand_as(x)
    assert torch.equal(found[kept], x[kept])
    assert not torch.equal(found, x)
    assert torch.equal(inpaint(torch.where(kept, x, 0.9), keep), found)


@BOTH
def test_nothing_observed_and_nothing_missing(inpaint: Inpaint) -> None:
    x, keep = tiny_images(3, (3, 28, 28)), masks(3, 28, 28)
    keep[0], keep[1] = 0, 1
    found = inpaint(x, keep)
    torch.testing.assert_close(found[0], x[0].mean((1, 2), keepdim=True).expand_as(x[0]))
    assert torch.equal(found[1], x[1])
    assert torch.equal(found[2], inpaint(x[2:], keep[2:])[0])


@BOTH
def test_pixels_are_missing_below_one_half(inpaint: Inpaint) -> None:
    x = tiny_images(2, (1, 28, 28))
    soft = 0.3 + 0.6 * masks(2, 28, 28)
    soft[0, 0, 20, 20] = 0.5
    assert torch.equal(inpaint(x, soft), inpaint(x, soft >= 0.5))


@BOTH
def test_no_gradient_flows(inpaint: Inpaint) -> None:
    x, keep = tiny_images(1).requires_grad_(), masks(1, 28, 28).requires_grad_()
    assert not inpaint(x, keep).requires_grad

"""Grids enlarged by products of matrices, against PyTorch's interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from xbench.ops.blur import gaussian_blur
from xbench.ops.resize import Mode, resized

SIZES = [((3, 5), (28, 28)), ((14, 14), (28, 28)), ((7, 4), (9, 13)), ((28, 28), (28, 28)), ((1, 1), (6, 6)), ((8, 8), (5, 3))]


@pytest.mark.parametrize(("cells", "size"), SIZES)
@pytest.mark.parametrize(
    ("mode", "of_torch"),
    [
        ("nearest", {"mode": "nearest"}),
        ("bilinear", {"mode": "bilinear", "align_corners": False}),
        ("corners", {"mode": "bilinear", "align_corners": True}),
    ],
)
def test_equals_interpolation(mode: Mode, of_torch: dict[str, object], cells: tuple[int, int], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    grid, x = torch.rand(2, 3, *cells, dtype=torch.float64, requires_grad=True), torch.zeros(2, 1, *size)
    ours, theirs = resized(grid, x, mode), F.interpolate(grid, size=size, **of_torch)
    assert ours.shape == (2, 3, *size)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0 if mode == "nearest" else 1e-12)
    gradients = [torch.autograd.grad(values.square().sum(), grid)[0] for values in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_squared_weights_are_those_of_variances() -> None:
    """Of independent cells, whose bilinear mean has the variance sum of squared weights times theirs."""
    torch.manual_seed(0)
    draws = 3 * torch.randn(200_000, 2, 2, dtype=torch.float64)
    x = torch.zeros(1, 1, 5, 5)
    expected = resized(torch.full((2, 2), 9.0, dtype=torch.float64), x, "bilinear-squared")
    torch.testing.assert_close(resized(draws, x, "bilinear").var(0), expected, rtol=0.02, atol=0)
    assert expected[0, 0] == 9  # at the corner a single cell counts
    assert expected[2, 2] == 9 / 4  # in the middle all four alike


def test_what_was_asked_in_inference_mode_serves_a_backward_pass_later() -> None:
    x = torch.zeros(1, 1, 11, 17)  # a size that no other test has
    with torch.inference_mode():
        resized(torch.rand(4, 6), x, "bilinear")
        gaussian_blur(torch.rand(1, 1, 11, 17), 1.25)
    grid = torch.rand(4, 6, requires_grad=True)
    blurred = gaussian_blur(resized(grid, x, "bilinear")[None, None], 1.25)
    (gradient,) = torch.autograd.grad(blurred.sum(), grid)
    assert gradient.sum() == pytest.approx(11 * 17)  # the weights of every pixel sum to 1

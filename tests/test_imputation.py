"""Imputation from the observed pixels, against dense and sparse solutions of its definition."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from xbench import XbenchError
from xbench.ops import imputation
from xbench.ops.blur import gaussian_blur
from xbench.ops.imputation import linear_imputation, local_mean

Impute = Callable[[Tensor, Tensor], Tensor]


def images(n: int, c: int, h: int, w: int, seed: int = 0) -> Tensor:
    """Images in [0, 1] that are noise on a slope, so that neither rounding nor a lost constant stays unseen."""
    x = torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x + torch.linspace(0, 1, h, dtype=torch.float64)[:, None]) / 2


def random_masks(shares: list[float], h: int, w: int, seed: int = 1) -> Tensor:
    """Masks (n, 1, h, w) that keep a random share of the pixels each."""
    draws = torch.rand(len(shares), 1, h, w, generator=torch.Generator().manual_seed(seed))
    return (draws < torch.tensor(shares).view(-1, 1, 1, 1)).double()


def shapes(h: int, w: int) -> dict[str, Tensor]:
    """Masks (h, w) that are hard to solve for: far from every observed pixel, or through narrow passages."""
    whole, nothing = torch.ones(h, w), torch.zeros(h, w)
    found = {name: nothing.clone() for name in ("one pixel", "row", "corners", "maze", "wall")}
    found["one pixel"][h // 3, w // 5] = 1
    found["row"][0] = 1
    found["corners"][0, 0] = found["corners"][-1, -1] = 1
    found["maze"][:, ::4] = 1
    found["maze"][-1, ::8] = found["maze"][0, 4::8] = 0
    found["wall"][:, w // 2] = 1
    found["wall"][h // 2, w // 2] = 0
    found["block"] = whole.clone()
    found["block"][h // 4 : -h // 4, 2:] = 0
    found["checkers"] = ((torch.arange(h)[:, None] + torch.arange(w)) % 2).float()
    return found


def definition(x: Tensor, keep: Tensor) -> Tensor:
    """One image (c, h, w): an equation per missing pixel, written down neighbour by neighbour and solved as a sparse system."""
    _, h, w = x.shape
    missing = [(i, j) for i in range(h) for j in range(w) if keep[i, j] < 0.5]
    number = {pixel: k for k, pixel in enumerate(missing)}
    rows, columns, values = [], [], []
    constant = np.zeros((len(missing), len(x)))
    pixels = x.permute(1, 2, 0).numpy()
    for k, (i, j) in enumerate(missing):
        around = [(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1) if di or dj]
        for place in around:
            if not (0 <= place[0] < h and 0 <= place[1] < w):
                continue
            weight = 1 / 6 if i == place[0] or j == place[1] else 1 / 12
            rows.append(k), columns.append(k), values.append(weight)
            if place in number:
                rows.append(k), columns.append(number[place]), values.append(-weight)
            else:
                constant[k] += weight * pixels[place]
    solved = spsolve(csc_matrix((values, (rows, columns)), (len(missing),) * 2), constant).reshape(len(missing), len(x))
    result = pixels.copy()
    for k, place in enumerate(missing):
        result[place] = solved[k]
    return torch.from_numpy(result).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (17, 40), (9, 8), (3, 6), (1, 7), (2, 2)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-8)])
def test_linear_imputation_solves_its_equations(size: tuple[int, int], dtype: torch.dtype, error: float) -> None:
    keep = random_masks([0.95, 0.5, 0.1, 0.02], *size)
    if min(size) > 5:
        keep = torch.cat([keep, torch.stack(list(shapes(*size).values()))[:, None].double()])
    keep[:, :, 0, -1] = 1  # something is observed
    x = images(len(keep), 2, *size)
    found = linear_imputation(x.to(dtype), keep.to(dtype))
    assert found.dtype == dtype
    expected = torch.stack([definition(image, mask[0]) for image, mask in zip(x, keep, strict=True)])
    assert (found - expected).abs().max() < error
    assert torch.equal(found[(keep == 1).expand_as(x)], x.to(dtype)[(keep == 1).expand_as(x)])


@pytest.mark.parametrize("size", [(28, 28), (17, 40), (9, 8), (224, 224)])
def test_no_equation_misses_by_a_millionth(size: tuple[int, int]) -> None:
    """In float32, of all masks, images and channels at once: every missing pixel against its neighbours' weighted mean."""
    keep = torch.cat([random_masks([0.9, 0.3, 0.02], *size), torch.stack(list(shapes(*size).values()))[:, None].double()])
    keep[:, :, 0, -1] = 1
    found = linear_imputation(images(len(keep), 3, *size).float(), keep.float()).double()
    padded = torch.nn.functional.pad(found, (1, 1, 1, 1))
    inside = torch.nn.functional.pad(torch.ones(1, 1, *size).double(), (1, 1, 1, 1))
    residual = torch.zeros_like(found)
    for i, j in [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]:
        place = (..., slice(i, i + size[0]), slice(j, j + size[1]))
        residual += inside[place] * (found - padded[place]) * (1 / 12 if i != 1 and j != 1 else 1 / 6)
    assert (residual.abs() * (keep < 0.5)).max() < 1e-6


def test_linear_imputation_of_large_images() -> None:
    hard = shapes(224, 224)
    keep = torch.cat([random_masks([0.001], 224, 224), torch.stack([hard["wall"], hard["block"]])[:, None].double()])
    x = images(3, 1, 224, 224)
    double, single = linear_imputation(x, keep), linear_imputation(x.float(), keep)
    assert (single - double).abs().max() < 1e-5
    assert (double[0] - definition(x[0], keep[0, 0])).abs().max() < 1e-8


def test_single_missing_pixels_are_the_weighted_mean_of_their_neighbours() -> None:
    x = images(1, 3, 6, 7)
    keep = torch.ones(1, 1, 6, 7)
    keep[0, 0, 2, 3] = keep[0, 0, 5, 6] = keep[0, 0, 0, 0] = 0
    found = linear_imputation(x, keep)
    edge, corner = x[..., 1, 3] + x[..., 3, 3] + x[..., 2, 2] + x[..., 2, 4], x[..., 1:4:2, 2:5:2].sum((2, 3))
    torch.testing.assert_close(found[..., 2, 3], edge / 6 + corner / 12)
    torch.testing.assert_close(found[..., 5, 6], 0.4 * x[..., 4, 6] + 0.4 * x[..., 5, 5] + 0.2 * x[..., 4, 5])
    torch.testing.assert_close(found[..., 0, 0], 0.4 * x[..., 1, 0] + 0.4 * x[..., 0, 1] + 0.2 * x[..., 1, 1])


def test_slopes_are_continued_into_holes() -> None:
    row, column = torch.arange(224, dtype=torch.float64)[:, None], torch.arange(224, dtype=torch.float64)
    x = ((row + 3 * column) / 1000).expand(1, 1, 224, 224)
    keep = torch.ones(1, 1, 224, 224)
    keep[..., 10:200, 20:223] = 0
    torch.testing.assert_close(linear_imputation(x, keep), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(linear_imputation(x.float(), keep), x.float(), rtol=0, atol=1e-5)


def test_one_observed_pixel_gives_a_flat_image() -> None:
    x = images(1, 3, 50, 61)
    keep = torch.zeros(1, 1, 50, 61)
    keep[..., 7, 60] = 1
    torch.testing.assert_close(linear_imputation(x, keep), x[:, :, 7:8, 60:].expand_as(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("impute", [linear_imputation, local_mean])
def test_nothing_observed_gives_the_mean_of_the_image(impute: Impute) -> None:
    x = images(2, 3, 28, 28)
    keep = torch.stack([torch.zeros(1, 28, 28), random_masks([0.3], 28, 28)[0].float()])
    found = impute(x, keep)
    torch.testing.assert_close(found[0], x[0].mean((1, 2), keepdim=True).expand_as(x[0]))
    assert found[1].std() > 0.05


def test_nothing_missing_gives_the_image() -> None:
    x = images(2, 1, 28, 28)
    assert torch.equal(linear_imputation(x, torch.ones(2, 1, 28, 28)), x)


@pytest.mark.parametrize("impute", [linear_imputation, local_mean])
def test_pixels_are_missing_below_one_half(impute: Impute) -> None:
    x = images(3, 1, 12, 12)
    soft = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    soft[0, 0, 0, 0] = 0.5
    expected = impute(x, soft >= 0.5)
    assert torch.equal(impute(x, soft), expected)
    assert torch.equal(impute(x, soft.double()), expected)


def test_threads_change_no_more_than_rounding_and_report_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imputation, "DIVIDED", 1000)
    threads = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, 3, 30, 31, generator=generator)
    keep = (torch.rand(5, 1, 30, 31, generator=generator) > 0.7).float()
    try:
        torch.set_num_threads(1)
        alone = linear_imputation(x, keep)
        torch.set_num_threads(3)
        assert torch.allclose(linear_imputation(x.clone().requires_grad_(), keep), alone, atol=1e-6)
        x[4, 0, 0, 0], keep[4, 0, 0, 0] = torch.inf, 1
        with pytest.raises(XbenchError, match="did not converge"):
            linear_imputation(x, keep)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [28, 75])
def test_other_images_of_the_batch_change_nothing(size: int) -> None:
    """Some of these systems are solved at once, others after many iterations."""
    keep = torch.cat([random_masks([1.0, 0.99, 0.3, 0.01, 0.0], size, size), shapes(size, size)["wall"][None, None].double()])
    x = images(len(keep), 2, size, size)
    found = linear_imputation(x, keep)
    for i in range(len(keep)):
        single = linear_imputation(x[i : i + 1], keep[i : i + 1])[0]
        assert (single - found[i]).abs().max() < 1e-13
        channel = linear_imputation(x[i : i + 1, 1:], keep[i : i + 1])[0, 0]
        assert (channel - found[i, 1]).abs().max() < 1e-13


def system(stencil: Tensor) -> Tensor:
    """The matrix (h*w, h*w) of a stencil (5, h, w), weight by weight."""
    _, h, w = stencil.shape
    matrix = torch.zeros(h * w, h * w, dtype=stencil.dtype)
    for weights, (down, right) in zip(stencil, imputation.HALF, strict=True):
        for i, j in [(i, j) for i in range(h) for j in range(w) if weights[i, j]]:
            here, there = i * w + j, (i + down) * w + j + right
            assert i + down < h
            assert 0 <= j + right < w
            matrix[here, there] = matrix[there, here] = weights[i, j]
    return matrix


@pytest.mark.parametrize("size", [(9, 9), (8, 8), (7, 10), (2, 5)])
def test_coarse_equations_are_those_of_interpolated_fields(size: tuple[int, int]) -> None:
    """Against the product of dense matrices, the interpolation written down as hats around every second pixel."""
    h, w = size
    stencil = torch.rand(1, 5, h, w, generator=torch.Generator().manual_seed(4), dtype=torch.float64) - 0.5
    for weights, (down, right) in zip(stencil[0], imputation.HALF, strict=True):
        inside = [[0 <= i + down < h and 0 <= j + right < w for j in range(w)] for i in range(h)]
        weights.mul_(torch.tensor(inside))
    hats = []
    for length in size:
        place = 2 * torch.arange(length // 2 + 1) - (1 - length % 2)
        hats.append((1 - (torch.arange(length)[:, None] - place).abs() / 2).clamp_min(0).double())
    hats = torch.kron(*hats)
    expected = hats.T @ system(stencil[0]) @ hats
    torch.testing.assert_close(system(imputation._coarser(stencil)[0]), expected)


def test_images_that_are_not_finite_are_an_error() -> None:
    x = images(2, 1, 12, 12)
    x[1, 0, 3, 3] = math.nan
    with pytest.raises(XbenchError, match="did not converge"):
        linear_imputation(x, random_masks([0.5, 0.5], 12, 12))


def test_no_gradient_flows() -> None:
    x = images(1, 1, 12, 12).requires_grad_()
    soft = torch.rand(1, 1, 12, 12).double().requires_grad_()
    assert not linear_imputation(x, soft).requires_grad
    assert not local_mean(x, soft).requires_grad


def test_local_mean_is_its_definition() -> None:
    x, keep, sigma = images(2, 2, 9, 12), random_masks([0.5, 0.1], 9, 12), 1.5
    found = local_mean(x, keep, sigma)
    reach = math.ceil(4 * sigma)
    for n, i, j in [(0, 0, 0), (0, 4, 6), (0, 8, 3), (1, 0, 11), (1, 5, 5), (1, 8, 11)]:
        total, seen, possible = torch.zeros(2).double(), 0.0, 0.0
        for di in range(-reach, reach + 1):
            for dj in range(-reach, reach + 1):
                row, column = min(max(i + di, 0), 8), min(max(j + dj, 0), 11)
                weight = math.exp(-(di**2 + dj**2) / 2 / sigma**2)
                possible += weight
                if keep[n, 0, row, column]:
                    seen += weight
                    total += weight * x[n, :, row, column]
        everywhere = x[n][:, keep[n, 0] == 1].mean(1)
        torch.testing.assert_close(found[n, :, i, j], (total / possible + 1e-6 * everywhere) / (seen / possible + 1e-6))


def test_local_mean_of_a_whole_image_is_its_blur() -> None:
    x = images(2, 3, 28, 28)
    whole = torch.ones(2, 1, 28, 28)
    torch.testing.assert_close(local_mean(x, whole), gaussian_blur(x, 10 * 28 / 224), rtol=0, atol=1e-6)
    torch.testing.assert_close(local_mean(x, whole, 3.0), gaussian_blur(x, 3.0), rtol=0, atol=1e-6)


def test_local_mean_far_from_all_observed_pixels_is_their_mean() -> None:
    x = images(1, 3, 28, 28)
    keep = torch.zeros(1, 1, 28, 28)
    keep[..., :4, :4] = 1
    found = local_mean(x, keep)
    torch.testing.assert_close(found[..., 20, 20], x[..., :4, :4].mean((2, 3)))
    assert not torch.allclose(found[..., 0, 0], found[..., 20, 20], atol=1e-2)


def test_local_mean_does_not_see_what_is_missing() -> None:
    x, keep = images(2, 1, 20, 20), random_masks([0.5, 0.05], 20, 20)
    torch.testing.assert_close(local_mean(x, keep), local_mean(x * keep + 100 * (1 - keep), keep))

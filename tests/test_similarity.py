"""Similarities of maps, against scikit-image and scipy and against cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from skimage.feature import hog as skimage_hog
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from xbench.ops import similarity
from xbench.ops.normalise import minmax


def spearman(a, b):
    """As the metrics compute it: Pearson correlation of the average ranks."""
    return similarity.pearson(similarity.average_ranks(a), similarity.average_ranks(b))


def pairs(count: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Related maps in [0, 1]: smooth, flat in places, noisy in others."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((2, count, 5, 5), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").clamp_min(0.4)
    noise = torch.rand((count, height, width), generator=generator)
    return minmax(smooth[0] + 0.05 * noise), minmax(0.5 * smooth[0] + smooth[1])


COMPARISONS = {
    "ssim": similarity.ssim,
    "ssim-uniform": lambda a, b: similarity.ssim(a, b, 5, None),
    "psnr": lambda a, b: similarity.psnr(a, b)[0],
    "pearson": similarity.pearson,
    "spearman": spearman,
    "hog": lambda a, b: similarity.pearson(similarity.hog(a, 4), similarity.hog(b, 4)),
}
CORRELATIONS = ["pearson", "spearman", "hog"]


@pytest.mark.parametrize("shape", [(11, 11), (28, 28), (40, 31)])
@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_gaussian_ssim_is_that_of_wang_et_al(shape, data_range):
    a, b = pairs(4, *shape)
    expected = [
        structural_similarity(
            x, y, win_size=11, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=data_range
        )
        for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(similarity.ssim(a, b, data_range=data_range), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(5, 5), (28, 28), (40, 31)])
def test_uniform_ssim_is_scikit_images_default(shape):
    a, b = pairs(4, *shape)
    expected = [
        structural_similarity(x, y, win_size=5, data_range=1)
        for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(similarity.ssim(a, b, 5, None), expected, rtol=0, atol=1e-9)


def test_ssim_of_constant_maps_is_its_luminance_term():
    a, b = torch.full((1, 16, 16), 0.2), torch.full((1, 16, 16), 0.7)
    expected = (2 * 0.2 * 0.7 + 1e-4) / (0.2**2 + 0.7**2 + 1e-4)
    assert similarity.ssim(a, b).item() == pytest.approx(expected, abs=1e-6)
    assert similarity.ssim(torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)).item() == 1


def test_psnr_equals_scikit_image_and_is_floored_at_100_db():
    a, b = pairs(3, 28, 28)
    expected = [
        peak_signal_noise_ratio(x, y, data_range=1) for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    value, floored = similarity.psnr(a, b)
    np.testing.assert_allclose(value, expected, atol=1e-9)
    assert not floored.any()
    a = torch.full((3, 8, 8), 0.5, dtype=torch.float64)
    value, floored = similarity.psnr(a, a + torch.tensor([0.1, 1e-6, 0])[:, None, None].double())
    torch.testing.assert_close(value, torch.tensor([20.0, 100, 100]).double())
    assert floored.tolist() == [False, True, True]


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (-3, -5), (1e-30, 0), (1e30, 0)])
def test_pearson_equals_scipy_at_any_scale(scale, offset):
    a, b = pairs(4, 13, 9)
    expected = [scipy.stats.pearsonr(x.ravel(), y.ravel())[0] for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    got = similarity.pearson(a.double() * scale + offset, b)
    np.testing.assert_allclose(got, np.sign(scale) * np.array(expected), atol=1e-6)


@pytest.mark.parametrize("levels", [2, 4, 10_000])
def test_spearman_equals_scipy_with_ties_and_negative_maps(levels):
    generator = torch.Generator().manual_seed(1)
    a = torch.randint(levels, (5, 12, 17), generator=generator).float() - levels
    b = (a + torch.randint(levels, a.shape, generator=generator)).float()
    b[:, 0] = -0.0
    b[:, 1] = 0.0
    expected = [scipy.stats.spearmanr(x, y, axis=None)[0] for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(spearman(a, b), expected, atol=1e-12)
    np.testing.assert_array_equal(
        similarity.average_ranks(a), np.stack([scipy.stats.rankdata(x.ravel(), method="average") for x in a.numpy()])
    )


@pytest.mark.parametrize(("height", "width", "cell"), [(28, 28, 4), (32, 32, 4), (30, 45, 4), (224, 224, 16), (64, 64, 16)])
def test_hog_equals_scikit_image(height, width, cell):
    blocky = torch.randint(3, (2, 8, 9), generator=torch.Generator().manual_seed(2)).float()
    nearest = torch.nn.functional.interpolate(blocky[None], size=(height, width), mode="nearest")[0]
    for maps in (pairs(2, height, width)[0], nearest, nearest.transpose(1, 2), -nearest):
        expected = [skimage_hog(x, pixels_per_cell=(cell, cell)) for x in maps.double().numpy()]
        np.testing.assert_allclose(similarity.hog(maps, cell), expected, atol=1e-6)


@pytest.mark.parametrize("angle", range(0, 360, 45))
def test_hog_of_a_ramp_has_all_its_weight_in_the_ramps_orientation(angle):
    row, column = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    dy, dx = round(math.sin(math.radians(angle)), 1), round(math.cos(math.radians(angle)), 1)
    descriptor = similarity.hog((dy * row + dx * column)[None], 4).view(5, 5, 9, 9)
    inner = descriptor[1:-1, 1:-1].sum((0, 1, 2))  # at the map's border one of the two differences is 0
    assert inner.nonzero().tolist() == [[angle % 180 // 20]]


@pytest.mark.parametrize(("height", "cell"), [(28, 4), (32, 4), (63, 4), (64, 16), (224, 16)])
def test_hog_cells(height, cell):
    assert similarity.hog_cell(height) == cell


@pytest.mark.parametrize("name", COMPARISONS)
def test_symmetric(name):
    a, b = pairs(4, 28, 28)
    torch.testing.assert_close(COMPARISONS[name](a, b), COMPARISONS[name](b, a), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(COMPARISONS) - {"psnr"}))
@pytest.mark.parametrize("shift", [0, -3])
def test_a_map_and_itself_have_similarity_1(name, shift):
    a = pairs(4, 28, 28)[0] + shift
    torch.testing.assert_close(COMPARISONS[name](a, a), torch.ones(4).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_batch_size_changes_nothing(name):
    a, b = pairs(64, 28, 28)
    whole = COMPARISONS[name](a, b)
    for size in (1, 7):
        parts = [COMPARISONS[name](x, y) for x, y in zip(a.split(size), b.split(size), strict=True)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", COMPARISONS)
def test_float32_and_float64_maps_agree(name):
    a, b = pairs(4, 28, 28)
    assert COMPARISONS[name](a, b).dtype == torch.float64
    torch.testing.assert_close(COMPARISONS[name](a, b), COMPARISONS[name](a.double(), b.double()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", COMPARISONS)
def test_no_value_is_read_back_to_the_host(name):
    a = torch.empty((3, 28, 28), device="meta")  # has no values: reading one raises
    assert COMPARISONS[name](a, a).shape == (3,)


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
def test_correlation_with_a_constant_map_is_nan(name, value):
    a, b = pairs(3, 28, 28)
    a[1] = value
    b[2] = value
    score = COMPARISONS[name](a, b)
    assert score.isnan().tolist() == [False, True, True]
    assert similarity.undefined({"x": score, "y": score}, {"x": "constant map"}) == {
        "x": {1: "constant map", 2: "constant map"}
    }
    assert COMPARISONS[name](a[1:2], a[1:2]).isnan().all()


def test_a_column_without_nan_has_no_reasons():
    assert similarity.undefined({"x": torch.ones(2)}, {"x": "constant map"}) == {}


def test_views_are_compared_by_their_name():
    a, b = pairs(3, 28, 28)
    got = similarity.compare_views({"ssim": a, "pc": a}, {"ssim": b, "pc": b})
    assert list(got) == ["ssim", "pc"]
    torch.testing.assert_close(got["ssim"], similarity.ssim(a, b, 5, None))
    torch.testing.assert_close(got["pc"], similarity.pearson(a, b))


def test_maps_too_small_are_refused():
    a = torch.rand(1, 10, 20)
    with pytest.raises(ValueError, match="10x20 px are smaller than the SSIM window of 11"):
        similarity.ssim(a, a)
    with pytest.raises(ValueError, match="10x20 px are too small for HOG: 3x3 cells need 12 px"):
        similarity.hog(a, 4)

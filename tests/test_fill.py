"""The fills against their definitions."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from xbench import METHODS, ImageRandom, XbenchError
from xbench.ops.fill import FILLS, make_fill
from xbench.testing import tiny_images

SHAPES = [(1, 28, 28), (3, 32, 32)]


def normal(count):
    rng = ImageRandom(0, [str(i) for i in range(count)])
    return lambda shape: rng.normal("fill", shape)


def no_draws(shape):
    raise AssertionError("this fill needs no draws")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FILLS)
def test_every_fill_has_the_shape_and_type_of_the_images(name, dtype, shape):
    x = tiny_images(3, shape).to(dtype)
    before = x.clone()
    fill = make_fill(name, x, torch.full((shape[0], 1, 1), 0.4), normal(3))
    assert fill.shape == x.shape
    assert fill.dtype == dtype
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", SHAPES)
def test_constant_fills(shape):
    x = tiny_images(2, shape)
    gray = torch.linspace(0.2, 0.6, shape[0]).view(-1, 1, 1)
    filled = {name: make_fill(name, x, gray, no_draws) for name in ("gray", "mean", "zero")}
    for image in range(2):
        for channel in range(shape[0]):
            assert torch.all(filled["gray"][image, channel] == gray[channel])
            assert torch.all(filled["zero"][image, channel] == 0)
            mean = sum(x[image, channel].double().flatten().tolist()) / (shape[1] * shape[2])
            assert torch.allclose(filled["mean"][image, channel], torch.tensor(mean, dtype=torch.float32), atol=1e-6)


@pytest.mark.parametrize(("height", "sigma"), [(28, 1.25), (224, 10.0)])
def test_blur_is_scaled_with_the_height(height, sigma):
    x = tiny_images(1, (1, height, height)).double()
    expected = x[0, 0].numpy()
    for axis in (0, 1):
        expected = gaussian_filter1d(expected, sigma, axis, mode="nearest", truncate=4.0)
    assert torch.allclose(make_fill("blur", x, torch.zeros(1, 1, 1), no_draws)[0, 0], torch.from_numpy(expected), atol=1e-12)


def test_noise_has_the_stated_moments_and_is_not_clipped():
    x = torch.zeros(64, 3, 32, 32)
    x[:, 1] = 0.7
    noise = make_fill("noise", x, torch.zeros(3, 1, 1), normal(64))
    around_mean = make_fill("mean-noise", x, torch.zeros(3, 1, 1), normal(64))
    for channel, mean in enumerate((0.0, 0.7, 0.0)):
        # 65 536 draws: the standard error of the mean is 0.0008.
        assert abs(noise[:, channel].mean() - 0.5) < 0.004
        assert abs(noise[:, channel].std() - 0.2) < 0.004
        assert abs(around_mean[:, channel].mean() - mean) < 0.004
        assert abs(around_mean[:, channel].std() - 0.2) < 0.004
    assert around_mean.min() < 0
    assert noise.max() > 1


@pytest.mark.parametrize("name", FILLS)
def test_an_image_is_filled_alike_in_every_batch(name):
    x = tiny_images(5)
    ids = list("abcde")
    rng = ImageRandom(0, ids)
    gray = torch.full((1, 1, 1), 0.5)
    together = make_fill(name, x, gray, lambda shape: rng.normal("fill", shape))
    for i, image in enumerate(ids):
        alone = ImageRandom(0, [image])
        fill = make_fill(name, x[i : i + 1], gray, lambda shape, alone=alone: alone.normal("fill", shape))
        assert torch.allclose(fill[0], together[i], atol=1e-6)


def test_unknown_names_are_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match=r"fill must be one of blur, gray, .*, got 'grey'"):
        make_fill("grey", torch.zeros(1, 1, 28, 28), torch.zeros(1, 1, 1), no_draws)
    with pytest.raises(XbenchError, match=r"rise\(fill=\.\.\.\): given 'grey'.*'gray'"):
        METHODS.make('rise(fill="grey")')
    assert METHODS.make('rise(fill="mean-noise")').fill == "mean-noise"

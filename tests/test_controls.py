"""The control maps against scipy, closed forms and simple images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from xbench import METHODS, Classifier, ImageRandom, XbenchError
from xbench.classifier import Passes
from xbench.testing import tiny_classifier, tiny_images

CONTROLS = ("random", "centre", "edges", "intensity")


def explain(spec: str, x: Tensor, ids: list[str] | None = None, seed: int = 0) -> Tensor:
    classifier = tiny_classifier(tuple(x.shape[1:]))
    y = torch.zeros(len(x), dtype=torch.long)
    return METHODS.make(spec)(classifier, x, y, ImageRandom(seed, ids or [str(i) for i in range(len(x))]))


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_never_ask_the_classifier(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the classifier was asked")

    monkeypatch.setattr(Classifier, "forward", refuse)
    method = METHODS.make(name)
    assert method.control
    assert method.cost((3, 224, 224)) == Passes(0, 0)
    assert explain(name, tiny_images(2, (3, 32, 32))).shape == (2, 32, 32)


def test_random_maps_are_uniform_and_keyed_by_image_and_seed() -> None:
    x = tiny_images(20)
    ids = [f"image-{i}" for i in range(20)]
    maps = explain("random", x, ids)
    assert 0 <= maps.min() < 0.001
    assert 0.999 < maps.max() < 1
    assert maps.mean() == pytest.approx(0.5, abs=0.01)
    assert maps.var() == pytest.approx(1 / 12, abs=0.003)
    assert explain("random", x[3:5] * 0, ids[3:5]).equal(maps[3:5])
    assert not explain("random", x, ids, seed=1).equal(maps)
    assert len({tuple(m.flatten().tolist()) for m in maps}) == 20


def test_centre_is_a_gaussian_in_the_middle() -> None:
    maps = explain("centre", torch.rand(2, 3, 40, 20))
    assert maps[0].equal(maps[1])
    torch.testing.assert_close(maps, maps.flip(1))
    torch.testing.assert_close(maps, maps.flip(2))
    assert maps[0].argmax() in [19 * 20 + 9, 19 * 20 + 10, 20 * 20 + 9, 20 * 20 + 10]
    # One standard deviation is a quarter of each side: pixel (29, 9) lies 9.5 of 40 rows and 0.5 of 20 columns from the centre.
    expected = math.exp(-((9.5 / 10) ** 2 + (0.5 / 5) ** 2) / 2)
    assert maps[0, 29, 9].item() == pytest.approx(expected, rel=1e-5)
    narrow = explain("centre(sigma=0.1)", torch.rand(1, 1, 40, 20))
    assert narrow[0, 29, 9].item() == pytest.approx(math.exp(-((9.5 / 4) ** 2 + (0.5 / 2) ** 2) / 2), rel=1e-4)


@pytest.mark.parametrize("sigma", ["0.0", "-1.0"])
def test_centre_refuses_a_width_that_is_not_positive(sigma: str) -> None:
    with pytest.raises(XbenchError, match="must be above 0"):
        METHODS.make(f"centre(sigma={sigma})")


def test_edges_equal_scipy_with_replicated_borders() -> None:
    x = torch.rand(3, 3, 28, 20)
    for image, found in zip(x.double().mean(1).numpy(), explain("edges", x), strict=True):
        rows, columns = (scipy.ndimage.sobel(image, axis=axis, mode="nearest") / 8 for axis in (0, 1))
        np.testing.assert_allclose(found.numpy(), np.hypot(rows, columns), atol=1e-6)


def test_edges_of_a_ramp_are_its_slope_and_a_constant_image_has_none() -> None:
    columns = torch.arange(20) * 0.02
    found = explain("edges", columns.expand(1, 3, 28, 20))
    torch.testing.assert_close(found[:, :, 1:-1], torch.full((1, 28, 18), 0.02))
    torch.testing.assert_close(found[:, :, [0, -1]], torch.full((1, 28, 2), 0.01))  # half the kernel sees the replica
    assert explain("edges", torch.full((1, 3, 28, 20), 0.5)).abs().max() < 1e-7


def test_intensity_is_the_distance_to_the_mean_colour_of_each_image() -> None:
    x = torch.zeros(2, 3, 28, 28)
    x[0, 0, :7] = 1  # a quarter of the red channel
    x[1] = 0.7
    maps = explain("intensity", x)
    torch.testing.assert_close(maps[0, :7], torch.full((7, 28), 0.75 / 3))
    torch.testing.assert_close(maps[0, 7:], torch.full((21, 28), 0.25 / 3))
    assert maps[1].abs().max() < 1e-6


def test_intensity_does_not_mix_the_images_of_a_batch() -> None:
    x = tiny_images(4, (3, 32, 32))
    torch.testing.assert_close(torch.cat([explain("intensity", x[i : i + 1]) for i in range(4)]), explain("intensity", x))

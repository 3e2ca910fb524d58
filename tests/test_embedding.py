"""The Gaussian processes of the stability search, against scikit-learn's and the suggestions of bayesian-optimization."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from bayes_opt import TargetSpace
from bayes_opt.acquisition import UpperConfidenceBound
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from xbench.metrics._embedding import CANDIDATES, LockstepSearch, fitted, half_width

CASES = [(5, 6), (5, 14), (2, 30), (10, 20)]


def case(d: int, n: int, images: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Points in the search box and a smooth function of them, another one for every image."""
    draws = np.random.RandomState(n)
    points = draws.uniform(-half_width(d), half_width(d), (images, n, d))
    slopes = draws.randn(images, 1, d)
    return points, 3 + 0.01 * (np.sin((points * slopes).sum(2) / 2) + 0.3 * np.abs(points).max(2))


def library(scale: float | None) -> GaussianProcessRegressor:
    """The library's own process: at a length scale, or with the likeliest that it finds in six descents, as by its default."""
    if scale is not None:
        return GaussianProcessRegressor(Matern(scale, nu=2.5), alpha=1e-6, normalize_y=True, optimizer=None)
    return GaussianProcessRegressor(Matern(nu=2.5), alpha=1e-6, normalize_y=True, n_restarts_optimizer=5, random_state=0)


@pytest.mark.parametrize(("d", "n"), CASES)
def test_a_process_is_the_librarys_at_its_length_scale(d: int, n: int) -> None:
    points, values = case(d, n)
    candidates = np.random.RandomState(0).uniform(-half_width(d), half_width(d), (100, d))
    for process, x, y in zip(fitted(points, values), points, values, strict=True):
        expected = library(process.scale).fit(x, y).predict(candidates, return_std=True)
        np.testing.assert_allclose(process.predict(candidates), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("d", "n"), CASES)
def test_its_length_scale_is_as_likely_as_the_best_of_six_descents(d: int, n: int) -> None:
    points, values = case(d, n)
    for process, x, y in zip(fitted(points, values), points, values, strict=True):
        mine = library(process.scale).fit(x, y).log_marginal_likelihood()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a scale at its bound
            best = library(None).fit(x, y).log_marginal_likelihood_value_
        assert mine > best - 0.02
        assert mine < best + 0.5


def test_suggestions_are_the_librarys() -> None:
    """Of the same draws, with the library's own fit from several starts; the images' searches run side by side."""
    points, values = case(5, 10)
    search = LockstepSearch(5, list(range(6)))
    for at in range(10):
        search.register(torch.from_numpy(points[:, at]), torch.from_numpy(values[:, at]))
    box = {f"z{i}": (-half_width(5), half_width(5)) for i in range(5)}
    same = 0
    for i, found in enumerate(search.suggest().numpy()):
        space = TargetSpace(None, box)
        for point, value in zip(points[i], values[i], strict=True):
            space.register(point, value)
        acquisition = UpperConfidenceBound(kappa=2.576)
        expected = acquisition.suggest(
            library(None), space, n_random=CANDIDATES, n_smart=0, random_state=np.random.RandomState(i)
        )
        same += np.array_equal(found, expected)
    assert same >= 5, "one may fall between two candidates that are equally good"


def test_values_that_are_all_equal_have_a_process() -> None:
    points, _ = case(5, 6)
    mean, deviation = fitted(points, np.full((6, 6), 2.0))[0].predict(points[0])
    np.testing.assert_allclose(mean, 2)
    assert (deviation < 0.01).all()


def test_images_do_not_see_each_other() -> None:
    points, values = case(5, 14)
    together = fitted(points, values)
    for i, process in enumerate(together):
        (alone,) = fitted(points[i : i + 1], values[i : i + 1])
        assert alone.scale == process.scale
        np.testing.assert_array_equal(alone.weights, process.weights)

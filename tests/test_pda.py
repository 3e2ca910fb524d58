"""PDA against a slow analysis of one window after the other, its Gaussian against the formulas, and known classifiers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from perturbed import affine, assert_batch_invariant, ids
from torch import nn

from xbench import CLASSIFIERS, DATASETS, METHODS, Classifier, ImageRandom, NotApplicable, XbenchError
from xbench.classifier import Passes
from xbench.methods.pda import PredictionDifferenceAnalysis as Pda
from xbench.ops.conditional import conditional_windows
from xbench.testing import tiny_classifier, tiny_images


def slow_conditional(plane, top, left, window, padding):
    """Mean and covariance of a window's pixels given the rest of its patch, by numpy, from all patches of a plane."""
    h, w = plane.shape
    side = window + 2 * padding
    patches = [plane[r : r + side, c : c + side].ravel() for r in range(h - side + 1) for c in range(w - side + 1)]
    mean, covariance = np.mean(patches, 0), np.cov(np.transpose(patches))
    covariance = covariance + np.eye(side**2) * (0.01 * np.trace(covariance) / side**2 + 1e-6)
    r, c = min(max(top - padding, 0), h - side), min(max(left - padding, 0), w - side)
    hole = np.zeros((side, side), dtype=bool)
    hole[top - r : top - r + window, left - c : left - c + window] = True
    i, a = np.flatnonzero(hole), np.flatnonzero(~hole)
    weights = covariance[np.ix_(i, a)] @ np.linalg.inv(covariance[np.ix_(a, a)])
    patch = plane[r : r + side, c : c + side].ravel()
    return mean[i] + weights @ (patch[a] - mean[a]), covariance[np.ix_(i, i)] - weights @ covariance[np.ix_(a, i)]


@pytest.mark.parametrize("place", [(0, 0), (1, 9), (4, 5), (9, 8), (9, 0)])
def test_windows_follow_the_conditional_gaussian(place):
    x = tiny_images(2, (2, 12, 12)).double()
    fit = conditional_windows(x, 3, 2)
    top, left = (torch.tensor([v]) for v in place)
    rows, columns = slice(place[0], place[0] + 3), slice(place[1], place[1] + 3)
    for i, c in itertools.product(range(2), range(2)):
        mean, covariance = slow_conditional(x[i, c].numpy(), *place, 3, 2)
        image = torch.tensor([i])
        made = fit(image, top, left, torch.zeros(1, 2, 9).double())
        assert np.allclose(made[0, c, rows, columns].flatten(), mean, atol=1e-8)
        outside = torch.ones(12, 12, dtype=torch.bool)
        outside[rows, columns] = False
        assert torch.equal(made[0, c][outside], x[i, c][outside])
        # The images of the unit vectors are the columns of a root of the covariance.
        unit = torch.eye(9).double()[:, None].expand(9, 2, 9)
        root = fit(image.expand(9), top.expand(9), left.expand(9), unit)[:, c, rows, columns].flatten(1).numpy() - mean
        assert np.allclose(root.T @ root, covariance, atol=1e-8)


def test_a_constant_image_stays_constant():
    fit = conditional_windows(torch.full((1, 1, 9, 9), 0.3), 3, 2)
    at = torch.tensor([3])
    made = fit(torch.tensor([0]), at, at, torch.randn(1, 1, 9, generator=torch.Generator().manual_seed(0)))
    assert (made - 0.3).abs().max() < 0.01


def test_a_patch_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match=r"window \+ 2 padding must be at most 6, the side of the image, got 7"):
        conditional_windows(torch.zeros(1, 1, 6, 9), 3, 2)


def slow_pda(classifier, image, target, name, window, stride, samples):
    """One image, window by window; samples by the formulas of the Gaussian and a Cholesky root."""
    c, h, w = image.shape
    rng, classes = ImageRandom(0, [name]), classifier.classes
    starts = [sorted({*range(0, n - window + 1, stride), n - window}) for n in (h, w)]
    total, count = torch.zeros(h, w, dtype=image.dtype), torch.zeros(h, w, dtype=image.dtype)

    def odds(p):
        p = (p * 100_000 + 1) / (100_000 + classes)
        return torch.log2(p / (1 - p))

    clean = classifier(image[None]).softmax(1)[0, target]
    for position, (top, left) in enumerate(itertools.product(*starts)):
        noise = rng.normal("windows", (samples, c, window**2), position)[0].double()
        made = image.repeat(samples, 1, 1, 1)
        for channel in range(c):
            mean, covariance = slow_conditional(image[channel].numpy(), top, left, window, 2)
            values = torch.from_numpy(mean) + noise[:, channel] @ torch.from_numpy(np.linalg.cholesky(covariance)).mT
            made[:, channel, top : top + window, left : left + window] = values.view(-1, window, window).clamp(0, 1)
        value = odds(clean) - odds(classifier(made).softmax(1)[:, target].mean())
        total[top : top + window, left : left + window] += value
        count[top : top + window, left : left + window] += 1
    return total / count


@pytest.mark.parametrize(("shape", "window", "stride"), [((1, 28, 28), 6, 5), ((3, 32, 32), 9, 9), ((1, 28, 28), 9, 4)])
def test_equals_one_window_at_a_time(shape, window, stride):
    classifier, x, y = tiny_classifier(shape).double(), tiny_images(2, shape).double(), torch.tensor([1, 3])
    maps = Pda(window=window, stride=stride, samples=3)(classifier, x, y, ImageRandom(0, ids(2)))
    for i in range(2):
        expected = slow_pda(classifier, x[i], y[i], ids(2)[i], window, stride, 3)
        assert torch.allclose(maps[i], expected, atol=1e-6 * expected.abs().max())


def test_evidence_is_where_the_probability_reads():
    # q = 0.05 + 0.9 * the mean of one object, which its surroundings do not tell.
    weight = torch.zeros(1, 28, 28)
    weight[0, 4:8, 4:8] = 0.9 / 16
    x = torch.full((2, 1, 28, 28), 0.1)
    x[:, :, 4:8, 4:8] = 0.9
    x[:, :, 18:22, 18:22] = 0.9  # another object, which is not read
    classifier = affine(weight, 0.05, mean=0.0)
    maps = Pda(window=4)(classifier, x, torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    assert maps[0, 5:7, 5:7].min() > 0.5
    assert maps[1, 5:7, 5:7].max() < -0.5
    assert maps[:, 16:, 16:].abs().max() < 1e-3


class Certain(nn.Module):
    """Logits (1000 m, 0), m the mean pixel: the probability rounds to 1 in float32."""

    def forward(self, z):
        m = z.mean((1, 2, 3))
        return torch.stack([1000 * m, 0 * m], 1)


def test_the_laplace_correction_bounds_the_evidence():
    classifier = Classifier(
        Certain(),
        name="certain",
        shape=(1, 28, 28),
        classes=2,
        label_space="two",
        mean=[0.0],
        std=[1.0],
        cam_layer=None,
        stages=[],
    )
    x = 0.5 + 0.5 * tiny_images(1)
    maps = Pda(samples=2)(classifier, x, torch.tensor([0]), ImageRandom(0, ids(1)))
    assert maps.isfinite().all()
    assert maps.abs().max() < 1e-3


def test_batch_size_and_repetition_change_nothing():
    assert_batch_invariant(Pda(samples=3, stride=3), tiny_images(22))


def test_counted_passes_are_the_cost():
    for shape, method in (
        ((1, 28, 28), Pda(samples=2)),
        ((3, 32, 32), Pda(stride=2, samples=3)),
        ((3, 64, 64), Pda(samples=1)),
    ):
        classifier, x = tiny_classifier(shape), tiny_images(2, shape)
        maps = method(classifier, x, torch.tensor([0, 1]), ImageRandom(0, ids(2)))
        assert maps.shape == (2, *shape[1:])
        assert classifier.passes == method.cost(shape) * 2
    assert Pda().cost((1, 28, 28)) == Passes(26**2 * 10 + 1)
    assert Pda().cost((3, 224, 224)) == Passes(19361)
    assert Pda(stride=1).cost((3, 224, 224)) == Passes(462251)


def test_taking_a_digits_best_windows_costs_more_evidence_than_its_worst():
    classifier, subset = CLASSIFIERS.make("mnist-cnn").load(), DATASETS.make("mnist").load()
    names = list(subset.ids[:3])
    x, _, _ = subset.read(names)
    y = classifier.probabilities(x).argmax(1)
    maps = Pda(stride=2, samples=5)(classifier, x, y, ImageRandom(0, names)).flatten(1)
    order = maps.argsort(1)
    p = []
    for removed in (order[:, -150:], order[:, :150]):
        image = x.flatten(1).scatter(1, removed, 0.5).view_as(x)
        p.append(classifier.probabilities(image).gather(1, y[:, None]))
    assert p[0].mean() < p[1].mean()


def test_defaults_and_sweeps_follow_the_image_size():
    assert Pda().resolved((3, 224, 224)) == Pda(window=10, stride=5)
    assert Pda().resolved((1, 28, 28)) == Pda(window=3, stride=1)
    assert [m.seed for m in Pda().sweeps((1, 28, 28))["seeds"]] == [0, 1, 2, 3, 4]


def test_what_does_not_fit_is_refused():
    classifier, x, y, rng = tiny_classifier(), tiny_images(1), torch.tensor([0]), ImageRandom(0, ids(1))
    with pytest.raises(NotApplicable, match="a window of 25 px with a frame of 2 px does not fit an image of 28 x 28 px"):
        Pda(window=25)(classifier, x, y, rng)
    with pytest.raises(NotApplicable, match="a stride of 4 px leaves gaps between windows of 3 px"):
        Pda(stride=4)(classifier, x, y, rng)
    for name in ("window", "stride", "samples"):
        with pytest.raises(XbenchError, match=f"{name} must"):
            METHODS.make(f"pda({name}=0)")

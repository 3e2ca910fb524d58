"""LIME against scikit-learn's ridge regression in a slow loop, and on a classifier that is linear in the superpixels."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from perturbed import SHAPES, affine, assert_batch_invariant, ids
from scipy.stats import spearmanr
from skimage.segmentation import slic
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances

from xbench import METHODS, ImageRandom, XbenchError
from xbench.methods.lime import Lime, weighted_ridge
from xbench.ops.segments import superpixels
from xbench.testing import tiny_classifier, tiny_images


def slow_lime(classifier, image, target, name, samples, segments, sigma, compactness, seed=0):
    """One image: superpixels, perturbed images and regression as in the lime package."""
    array = image.permute(1, 2, 0).double().numpy()
    array = array if array.shape[2] == 3 else array[:, :, 0]
    labels = slic(
        array, segments, compactness=compactness, sigma=sigma, start_label=0, channel_axis=-1 if array.ndim == 3 else None
    )
    count = len(np.unique(labels))
    rng = ImageRandom(seed, [name])
    blocks = [rng.uniform("kept", (samples, segments), step=k)[0].numpy() for k in range(-(-count // segments))]
    data = (np.concatenate(blocks, 1)[:, :count] < 0.5).astype(float)
    data[0] = 1
    probabilities = []
    for row in data:
        perturbed = image.clone()
        for segment in np.flatnonzero(row == 0):
            perturbed[:, torch.from_numpy(labels == segment)] = 0.5
        probabilities.append(classifier(perturbed[None]).softmax(1)[0, target].item())
    distances = pairwise_distances(data, data[:1], metric="cosine").ravel()
    weights = np.sqrt(np.exp(-(distances**2) / 0.25**2))
    ridge = Ridge(alpha=1, fit_intercept=True).fit(data, probabilities, sample_weight=weights)
    return ridge.coef_[labels]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("segments", [8, 40])
def test_equals_the_ridge_regression_of_scikit_learn(segments, shape):
    method = Lime(samples=60, segments=segments)
    classifier, x, y = tiny_classifier(shape), tiny_images(3, shape), torch.tensor([0, 2, 1])
    maps = method(classifier, x, y, ImageRandom(0, ids(3)))
    for i in range(3):
        compactness = 30 if shape[0] == 3 else 0.1
        expected = slow_lime(classifier, x[i], y[i], ids(3)[i], 60, segments, 0, compactness)
        assert np.allclose(maps[i].numpy(), expected, atol=1e-6)
        assert spearmanr(maps[i].flatten(), expected.flatten()).statistic > 0.999
        assert np.abs(expected).max() > 1e-4


def test_follows_sigma_compactness_and_large_images():
    classifier, x, y = tiny_classifier(), tiny_images(1), torch.tensor([3])
    method = METHODS.make("lime(samples=40, segments=12, sigma=1.5, compactness=0.05, seed=2)")
    maps = method(classifier, x, y, ImageRandom(2, ids(1)))
    expected = slow_lime(classifier, x[0], 3, "image-0", 40, 12, 1.5, 0.05, seed=2)
    assert np.allclose(maps[0].numpy(), expected, atol=1e-6)
    shape = (3, 224, 224)
    classifier, x = tiny_classifier(shape), tiny_images(1, shape)
    maps = Lime(samples=12)(classifier, x, y, ImageRandom(0, ids(1)))
    assert np.allclose(maps[0].numpy(), slow_lime(classifier, x[0], 3, "image-0", 12, 50, 3, 30), atol=1e-6)


def test_a_probability_linear_in_the_superpixels_is_recovered():
    # q = bias + sum of the kept superpixels' contributions, so the ridge coefficients are those contributions, shrunk by
    # alpha = 1 against samples * weight / 4 for independent columns.
    generator = torch.Generator().manual_seed(0)
    weight = 2e-3 * torch.randn(1, 28, 28, generator=generator, dtype=torch.float64)
    classifier = affine(weight, 0.5).double()
    x = tiny_images(1).double()
    maps = Lime(samples=4000, segments=10)(classifier, x, torch.tensor([0]), ImageRandom(0, ids(1)))
    labels = superpixels(x, 10, 0, 0.1)[0]
    contributions = torch.zeros(int(labels.max()) + 1, dtype=torch.float64)
    contributions.index_add_(0, labels, ((x - 0.5) * weight).flatten())
    expected = contributions[labels].view(28, 28)
    shrinkage = (maps[0] * expected).sum() / (expected**2).sum()
    assert 0.98 < shrinkage < 1
    assert (maps[0] - shrinkage * expected).abs().max() < 0.01 * expected.abs().max()


def test_ridge_without_penalty_is_exact_and_padding_gets_zero():
    generator = torch.Generator().manual_seed(0)
    z = (torch.rand(2, 50, 6, generator=generator) < 0.5).double()
    z[1, :, 4:] = 0
    truth = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    p = 3 + (z @ truth[:, :, None])[:, :, 0]
    weight = torch.rand(2, 50, generator=generator, dtype=torch.float64)
    estimate = weighted_ridge(z, p, weight, 1e-10)
    assert torch.allclose(estimate[0], truth[0], atol=1e-8)
    assert torch.allclose(estimate[1, :4], truth[1, :4], atol=1e-8)
    assert torch.all(weighted_ridge(z, p, weight, 1.0)[1, 4:] == 0)


def test_superpixels_of_digits_follow_the_image():
    x = tiny_images(2)
    blank = superpixels(torch.zeros(1, 1, 28, 28), 50, 0, 0.1)
    labels = superpixels(x, 50, 0, 0.1)
    assert labels.shape == (2, 784)
    for row in labels:
        assert torch.equal(row.unique(), torch.arange(int(row.max()) + 1))
        assert not torch.equal(row, blank[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_size_and_repetition_change_nothing(shape):
    x = tiny_images(64, shape)
    # Images of other contrast have other numbers of superpixels, which the batch pads.
    x[::3] = 0.5 + 0.1 * (x[::3] - 0.5)
    x[1] = 0
    counts = superpixels(x, 20, 0, 30 if shape[0] == 3 else 0.1).amax(1) + 1
    assert len(counts.unique()) > 1
    assert_batch_invariant(METHODS.make("lime(samples=30, segments=20)"), x)


def test_more_superpixels_than_asked_for_do_not_depend_on_the_batch():
    # SLIC makes 28 and 33 superpixels of 26 that are asked for, so that a second block of draws is needed.
    x = tiny_images(2)
    counts = superpixels(x, 26, 0, 0.1).amax(1) + 1
    assert counts.min() > 26
    assert counts[0] != counts[1]
    classifier, y, method = tiny_classifier(), torch.tensor([0, 1]), Lime(samples=50, segments=26)
    together = method(classifier, x, y, ImageRandom(0, ids(2)))
    for i in range(2):
        alone = method(classifier, x[i : i + 1], y[i : i + 1], ImageRandom(0, ids(2)[i : i + 1]))
        assert torch.allclose(alone[0], together[i], atol=1e-6)
        expected = slow_lime(classifier, x[i], y[i], ids(2)[i], 50, 26, 0, 0.1)
        assert np.allclose(together[i].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "spec"), [((1, 28, 28), "lime"), ((3, 32, 32), "lime(samples=9)"), ((3, 224, 224), "lime(samples=5)")]
)
def test_counted_passes_are_the_cost(shape, spec):
    method = METHODS.make(spec)
    classifier = tiny_classifier(shape)
    maps = method(classifier, tiny_images(2, shape), torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    assert maps.shape == (2, *shape[1:])
    assert classifier.passes == method.cost(shape) * 2


def test_defaults_sweeps_and_types():
    assert Lime().cost((3, 224, 224)).forward == 1000
    assert Lime().cost((1, 28, 28)).forward == 500
    assert Lime().resolved((3, 224, 224)) == Lime(samples=1000, sigma=3.0, compactness=30.0)
    assert Lime().resolved((1, 28, 28)) == Lime(samples=500, sigma=0.0, compactness=0.1)
    assert Lime(samples=7, sigma=0.0, compactness=1.0).resolved((3, 224, 224)) == Lime(samples=7, sigma=0.0, compactness=1.0)
    sweeps = Lime().sweeps((3, 224, 224))
    assert {name: [(m.segments, m.samples, m.seed) for m in methods] for name, methods in sweeps.items()} == {
        f"S={s}": [(s, 500, seed) for seed in range(5)] for s in (50, 150)
    }
    classifier, x, y = tiny_classifier().double(), tiny_images(2).double(), torch.tensor([0, 1])
    maps = {seed: Lime(samples=20)(classifier, x, y, ImageRandom(seed, ids(2))) for seed in (0, 1)}
    assert maps[0].dtype == torch.float64
    assert not torch.allclose(maps[0], maps[1], atol=1e-5)


@pytest.mark.parametrize("spec", ["lime(samples=1)", "lime(segments=1)", "lime(sigma=-1.0)", "lime(compactness=0.0)"])
def test_impossible_parameters_are_refused(spec):
    name = spec[5:].partition("=")[0]
    with pytest.raises(XbenchError, match=f"{name} must"):
        METHODS.make(spec)


SEVERAL = """
import numpy, torch
from xbench.methods.lime import weighted_ridge

torch.set_num_threads(2)
generator = torch.Generator().manual_seed(0)
z = (torch.rand(20, 300, 200, generator=generator) < 0.5).double()
p, weight = torch.rand(20, 300, generator=generator).double(), torch.rand(20, 300, generator=generator).double()
centred = [a - (w[:, None] * a).sum(0) / w.sum() for a, w in zip(z, weight)]
expected = [
    numpy.linalg.solve((a.T * w) @ a + torch.eye(200), (a.T * w) @ (q - (w * q).sum() / w.sum()))
    for a, q, w in zip(centred, p, weight)
]
for _ in range(20):
    assert numpy.allclose(weighted_ridge(z, p, weight, 1.0), expected, rtol=0, atol=1e-12)
"""


def test_many_superpixels_of_several_images_on_several_threads():
    # LU decompositions of as many unknowns hang in most of such processes.
    done = subprocess.run([sys.executable, "-c", SEVERAL], timeout=240, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

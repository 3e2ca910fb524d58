"""Kernel SHAP: exact Shapley values by their definition, a slow regression, and Captum with the same coalitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from captum.attr import KernelShap as CaptumKernelShap
from networks import digits, explain
from perturbed import SHAPES, affine, assert_batch_invariant, ids
from torch import Tensor, nn

from xbench import METHODS, Classifier, ImageRandom, XbenchError
from xbench.methods.kernel_shap import KernelShap, coalition_sizes, every_coalition, shapley_regression
from xbench.ops.segments import superpixels
from xbench.testing import tiny_classifier, tiny_images


def masked(image: Tensor, labels: Tensor, kept: Tensor, fill: float) -> Tensor:
    """One image (c, h, w) under every row of ``kept`` (n, m)."""
    mask = kept[:, labels].view(len(kept), 1, *image.shape[1:]).to(image)
    return image * mask + fill * (1 - mask)


def shapley_by_definition(value: dict[frozenset[int], float], m: int) -> np.ndarray:
    """The mean marginal contribution of each member over all orders, as a sum over coalitions."""
    phi = np.zeros(m)
    for i in range(m):
        others = [j for j in range(m) if j != i]
        for k in range(m):
            weight = math.factorial(k) * math.factorial(m - k - 1) / math.factorial(m)
            for subset in itertools.combinations(others, k):
                phi[i] += weight * (value[frozenset(subset) | {i}] - value[frozenset(subset)])
    return phi


def values_of(classifier: Classifier, image: Tensor, labels: Tensor, target: int) -> dict[frozenset[int], float]:
    m = int(labels.max()) + 1
    kept = torch.tensor(list(itertools.product([0, 1], repeat=m)))
    with torch.no_grad():
        p = classifier(masked(image, labels, kept, 0.5)).softmax(1)[:, target].tolist()
    return {frozenset(row.nonzero().flatten().tolist()): q for row, q in zip(kept, p, strict=True)}


@pytest.mark.parametrize("shape", SHAPES)
def test_all_coalitions_give_the_exact_shapley_values(shape) -> None:
    classifier, x, y = tiny_classifier(shape).double(), tiny_images(2, shape).double(), torch.tensor([2, 0])
    labels = superpixels(x, 6, 0, 30 if shape[0] == 3 else 0.1)
    assert labels.max() <= 7
    maps = explain("kernel-shap(segments=6, samples=256)", classifier, x, y)
    for i in range(2):
        m = int(labels[i].max()) + 1
        phi = shapley_by_definition(values_of(classifier, x[i], labels[i], int(y[i])), m)
        assert np.ptp(phi) > 1e-3
        torch.testing.assert_close(maps[i].flatten(), torch.from_numpy(phi)[labels[i]], rtol=1e-6, atol=1e-10)


def test_sampled_coalitions_converge_to_the_shapley_values() -> None:
    classifier, x, y = tiny_classifier().double(), tiny_images(1).double(), torch.tensor([2])
    labels = superpixels(x, 13, 0, 0.1)[0]
    m = int(labels.max()) + 1
    assert m == 10
    phi = shapley_by_definition(values_of(classifier, x[0], labels, 2), m)
    errors = []
    for samples in (2**m // 16, 2**m - 1):
        runs = [explain(f"kernel-shap(segments=13, samples={samples})", classifier, x, y, seed) for seed in range(4)]
        errors.append(max(float((run.flatten() - torch.from_numpy(phi)[labels]).abs().max()) for run in runs))
    assert errors[1] < 0.02 * np.abs(phi).max()
    assert errors[1] < errors[0]


def test_a_probability_linear_in_the_superpixels_is_exact_from_few_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = 2e-3 * torch.randn(1, 28, 28, generator=generator, dtype=torch.float64)
    classifier = affine(weight, 0.5).double()
    x = tiny_images(2).double()
    maps = explain("kernel-shap(samples=80, segments=20)", classifier, x, torch.tensor([0, 1]))
    for i, sign in enumerate((1, -1)):
        labels = superpixels(x, 20, 0, 0.1)[i]
        contributions = torch.zeros(int(labels.max()) + 1, dtype=torch.float64)
        contributions.index_add_(0, labels, ((x[i] - 0.5) * weight).flatten())
        torch.testing.assert_close(maps[i].flatten(), sign * contributions[labels], rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(("samples", "segments"), [(500, 50), (21, 30), (2, 10), (3, 10)])
def test_values_sum_to_the_difference_of_the_ends(samples: int, segments: int) -> None:
    classifier, x, y = tiny_classifier(), tiny_images(3), torch.tensor([0, 1, 2])
    maps = explain(f"kernel-shap(samples={samples}, segments={segments})", classifier, x, y)
    ends = classifier.probabilities(x) - classifier.probabilities(torch.full_like(x, 0.5))
    for i, labels in enumerate(superpixels(x, segments, 0, 0.1)):
        values = torch.stack([maps[i].flatten()[labels == s][0] for s in range(int(labels.max()) + 1)])
        torch.testing.assert_close(values.sum(), ends[i, y[i]], rtol=1e-4, atol=1e-6)
        if samples == 2:
            torch.testing.assert_close(values, values.mean().expand_as(values))


def test_the_regression_equals_a_constrained_one_by_elimination_of_the_last_value() -> None:
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(2, 60, 7, generator=generator) < 0.5
    kept[:, 0], kept[:, 1] = True, False
    kept[1, :, 5:] = False  # the second image has 5 superpixels
    p, weight = torch.rand(2, 60, generator=generator).double(), torch.rand(2, 60, generator=generator).double()
    found = shapley_regression(kept.double(), weight, p)
    for i, m in enumerate((7, 5)):
        z, delta = kept[i, :, :m].double().numpy(), float(p[i, 0] - p[i, 1])
        root = weight[i].sqrt().numpy()
        left = (z[:, :-1] - z[:, -1:]) * root[:, None]
        right = (p[i].numpy() - float(p[i, 1]) - z[:, -1] * delta) * root
        solution = np.linalg.lstsq(left, right, rcond=None)[0]
        expected = np.append(solution, delta - solution.sum())
        np.testing.assert_allclose(found[i, :m], expected, atol=1e-10)
    assert not found[1, 5:].any()


def test_sizes_follow_the_kernel() -> None:
    count = torch.tensor([8, 5, 2, 1])
    u = (torch.arange(40000) + 0.5)[None].expand(4, -1) / 40000
    sizes = coalition_sizes(u, count)
    for row, m in zip(sizes, (8, 5, 2), strict=False):
        mass = torch.tensor([1 / (k * (m - k)) for k in range(1, m)])
        share = torch.bincount(row, minlength=m).float()[1:] / 40000
        torch.testing.assert_close(share, mass / mass.sum(), rtol=0, atol=1e-3)
    assert not sizes[3].any()


def test_every_coalition_has_its_weight() -> None:
    kept, weight = every_coalition(4)
    assert len({tuple(row) for row in kept.tolist()}) == 14
    for row, w in zip(kept, weight, strict=True):
        k = int(row.sum())
        assert w == pytest.approx(3 / (math.comb(4, k) * k * (4 - k)))


def test_coalitions_come_with_their_complements() -> None:
    kept, weight = KernelShap(segments=10).draw(ImageRandom(0, ids(2)), torch.tensor([14, 9]), 101)
    for row, m in zip(kept, (14, 9), strict=True):
        assert row[0, :m].all()
        assert not row[1].any()
        assert not row[:, m:].any()
        drawn = row[2:, :m]
        assert (drawn[0:98:2] ^ drawn[1:99:2]).all()
        sizes = drawn.sum(1)
        assert sizes.min() >= 1
        assert sizes.max() < m
        assert drawn[::2].unique(dim=0).shape[0] > 20
    assert weight[:, :2].sum() == 0
    assert (weight[:, 2:] == 1).all()


def test_equals_captum_on_digits_with_the_same_coalitions() -> None:
    classifier, x, y = digits(2)
    classifier, x = classifier.double(), x.double()
    method = KernelShap(samples=200, segments=20)
    labels = superpixels(x, 20, 0, 0.1)
    kept, _ = method.draw(ImageRandom(0, ids(2)), labels.amax(1) + 1, 200)
    maps = explain(method.spec, classifier, x, y)
    for i in range(2):
        m = int(labels[i].max()) + 1
        captum = CaptumKernelShap(nn.Sequential(classifier, nn.Softmax(1)))

        def coalitions(*_: object, i: int = i, m: int = m, **__: object) -> Iterator[Tensor]:
            yield from kept[i, :, None, :m].long()

        captum.perturb_func = coalitions
        with torch.no_grad():
            expected = captum.attribute(
                x[i : i + 1], classifier.gray, int(y[i]), None, labels[i].view(1, 1, 28, 28), n_samples=200
            )
        assert maps[i].abs().max() > 0.02
        torch.testing.assert_close(maps[i], expected[0, 0].double(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_size_and_repetition_change_nothing(shape) -> None:
    x = tiny_images(24, shape)
    x[::3] = 0.5 + 0.1 * (x[::3] - 0.5)
    assert_batch_invariant(METHODS.make("kernel-shap(samples=70, segments=12)"), x)


@pytest.mark.parametrize(("shape", "spec"), [((1, 28, 28), "kernel-shap"), ((3, 224, 224), "kernel-shap(samples=5)")])
def test_counted_passes_are_the_cost(shape, spec: str) -> None:
    classifier = tiny_classifier(shape)
    explain(spec, classifier, tiny_images(2, shape), torch.tensor([0, 1]))
    assert classifier.passes == METHODS.make(spec).cost(shape) * 2
    assert METHODS.make("kernel-shap").cost((3, 224, 224)).forward == 1000


def test_one_superpixel_gets_the_whole_difference(monkeypatch) -> None:
    monkeypatch.setattr("xbench.methods.lime.superpixels", lambda x, *_: torch.zeros(len(x), 784, dtype=torch.long))
    classifier, x, y = tiny_classifier(), tiny_images(2), torch.tensor([0, 1])
    ends = classifier.probabilities(x) - classifier.probabilities(torch.full_like(x, 0.5))
    maps = explain("kernel-shap(samples=9)", classifier, x, y)
    torch.testing.assert_close(maps, ends.gather(1, y[:, None])[:, :, None].expand(2, 28, 28))


def test_sweeps_and_parameters() -> None:
    assert [method.seed for method in KernelShap().sweeps((1, 28, 28))["seeds"]] == [0, 1, 2, 3, 4]
    assert KernelShap().resolved((1, 28, 28)) == KernelShap(samples=500, sigma=0.0, compactness=0.1)
    with pytest.raises(XbenchError, match="samples must be at least 2"):
        METHODS.make("kernel-shap(samples=1)")

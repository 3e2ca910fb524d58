"""I-GOS and I-GOS++ against a slow optimisation of one image as in their authors' code, and on a classifier of one quadrant."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from perturbed import SHAPES, affine, assert_iterative_batch_invariant, ids

from xbench import CLASSIFIERS, DATASETS, METHODS, ImageRandom, XbenchError
from xbench.classifier import Passes
from xbench.methods.igos import line_search, mean_square, trials, variation
from xbench.ops.blur import gaussian_blur
from xbench.testing import tiny_classifier, tiny_images


def slow_igos(classifier, image, target, name, cell, iterations, points, plus, sparsity, smoothness, step=1000.0):
    """One image: every point of every path by itself, and the line search as in the authors' code."""
    _, h, w = image.shape
    rng, k = ImageRandom(0, [name]), 4 if plus else 1
    blur = gaussian_blur(image[None], 50 * h / 224, round(25 * h / 224))[0]
    z = (image - classifier.mean) / classifier.std
    grids = [torch.ones(math.ceil(h / cell), math.ceil(w / cell), dtype=image.dtype) for _ in range(2 if plus else 1)]

    def up(grid):
        return F.interpolate(grid[None, None], size=(h, w), mode="bilinear", align_corners=True)[0, 0]

    def path(keep, other, mask, noise):
        total = 0
        for point in range(points):
            a = (point + 1) / points
            image = keep * (a * mask) + other * (1 - a * mask) + 0.2 * classifier.std * noise[point]
            total = total + classifier(image[None]).softmax(1)[0, target] / points
        return total

    def score(masks, noise):
        if not plus:
            return path(image, blur, up(masks[0]), noise[0])
        d, i = up(masks[0]), up(masks[1])
        deleted = path(image, blur, d, noise[0]) + path(image, blur, d * i, noise[1])
        return deleted - path(blur, image, i, noise[2]) - path(blur, image, d * i, noise[3])

    def variation_of(m):
        return ((m[1:] - m[:-1]) ** 2).mean() + ((m[:, 1:] - m[:, :-1]) ** 2).mean()

    def rest(masks):
        m = masks[0] * masks[1] if plus else masks[0]
        smooth = variation_of(m)
        if plus:
            large = up(m)
            rows = torch.exp(-((z[:, 1:] - z[:, :-1]) ** 2) / 0.01).mean(0) * (large[1:] - large[:-1]) ** 2
            columns = torch.exp(-((z[:, :, 1:] - z[:, :, :-1]) ** 2) / 0.01).mean(0) * (large[:, 1:] - large[:, :-1]) ** 2
            smooth = 0.5 * (smooth + rows.mean() + columns.mean())
        return sparsity * (1 - m).abs().mean() + smoothness * smooth

    for iteration in range(iterations):
        noise = rng.normal("path", (k, points, *image.shape), iteration)[0].to(image)
        grids = [grid.detach().requires_grad_() for grid in grids]
        loss = (0.5 if plus else 1) * score(grids, noise) + rest(grids)
        gradients = torch.autograd.grad(loss, grids)
        with torch.no_grad():
            base, alpha = score(grids, noise) + rest(grids), step
            square = sum((g**2).sum() for g in gradients)
            while True:
                new = [(m - alpha * g).clamp(0, 1) for m, g in zip(grids, gradients, strict=True)]
                if score(new, noise) + rest(new) <= base - 1e-4 * alpha * square or alpha < 1e-5:
                    break
                alpha *= 0.2
            grids = new
    return 1 - up(grids[0] * grids[1] if plus else grids[0])


@pytest.mark.parametrize(("shape", "sparsity", "smoothness"), [(SHAPES[0], 0.001, 0.3), (SHAPES[1], 0.0, 2.0)])
@pytest.mark.parametrize("name", ["igos", "igos++"])
def test_equals_one_image_at_a_time(name, shape, sparsity, smoothness):
    method = METHODS.make(f"{name}(iterations=3, points=3, upsample=4, sparsity={sparsity}, smoothness={smoothness})")
    classifier, x, y = tiny_classifier(shape).double(), tiny_images(2, shape).double(), torch.tensor([1, 3])
    maps = method(classifier, x, y, ImageRandom(0, ids(2)))
    for i in range(2):
        expected = slow_igos(classifier, x[i], y[i], ids(2)[i], 4, 3, 3, name == "igos++", sparsity, smoothness)
        assert torch.allclose(maps[i], expected, atol=1e-8)
        assert expected.max() - expected.min() > 1e-3


def test_the_line_search_takes_the_first_size_that_lowers_the_loss_enough():
    tried = []

    def loss(image, grids):
        tried.append(image.tolist())
        return (grids - torch.tensor([0.2, 1.0, 0.9])[image, None, None, None]).abs().sum((1, 2, 3))

    grids, gradient = torch.ones(3, 1, 1, 1), torch.ones(3, 1, 1, 1)
    found = line_search(grids, gradient, loss(torch.arange(3), grids), loss, 5.0)
    # From 1: the sizes 5 and 1 lead to 0, 0.2 to 0.8, 0.04 to 0.96, ..; the second image cannot gain and takes the last size.
    assert found[0] == 0
    assert found[1] == pytest.approx(1 - 5 * 0.2 ** (trials(5.0) - 1))
    assert found[2] == pytest.approx(0.96)
    assert tried[1:5] == [[0, 1, 2], [1, 2], [1, 2], [1, 2]]
    assert len(tried) - 1 == trials(5.0)


@pytest.mark.parametrize("step", [1e-6, 9.9e-6, 1e-5, 2e-5, 1.0, 8.0, 1000.0, 3125e-5])
def test_the_number_of_trials_is_the_most_that_a_search_makes(step):
    made = []

    def never(image, grids):
        made.append(1)
        return torch.full((1,), torch.inf)

    line_search(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), torch.zeros(1), never, step)
    assert len(made) == trials(step)


def test_variation_of_a_ramp():
    grid = torch.arange(4.0).expand(1, 1, 3, 4)
    assert variation(grid) == 1
    assert variation(grid[..., :1]) == 0
    assert mean_square(grid.diff(dim=3), torch.tensor(0.5)) == 0.5


@pytest.mark.parametrize("name", ["igos", "igos++"])
def test_finds_the_quadrant_that_the_probability_reads(name):
    # q = 0.5 + 0.9 times the mean of x - blur, by sign, over one quadrant: the blur leaves q = 0.5.
    board = ((torch.arange(28)[:, None] // 2 + torch.arange(28) // 2) % 2).float()
    weight = torch.zeros(1, 28, 28)
    weight[0, :14, :14] = 0.9 * (2 * board - 1)[:14, :14] / 14**2
    classifier = affine(weight, 0.5, mean=0.5).double()
    (values,) = METHODS.make(f"{name}(points=5, iterations=10, sparsity=0.3, smoothness=2.0)")(
        classifier, board.expand(1, 1, 28, 28).double(), torch.tensor([0]), ImageRandom(0, ids(1))
    )
    assert values[2:12, 2:12].mean() > 5 * values[18:, 18:].mean()
    assert values[2:12, 2:12].mean() > 0.3
    assert values.flatten()[values.argmax()] == values[:14, :14].max()


@pytest.mark.parametrize("name", ["igos", "igos++"])
def test_where_nothing_matters_nothing_is_deleted(name):
    classifier = affine(torch.zeros(1, 28, 28), 0.3).double()
    maps = METHODS.make(f"{name}(points=3, iterations=3)")(
        classifier, tiny_images(2).double(), torch.tensor([0, 1]), ImageRandom(0, ids(2))
    )
    assert maps.abs().max() == 0


@pytest.mark.parametrize("name", ["igos", "igos++"])
def test_passes_of_digits_stay_within_the_cost_and_the_class_is_destroyed(name):
    classifier, subset = CLASSIFIERS.make("mnist-cnn").load(), DATASETS.make("mnist").load()
    names = list(subset.ids[:2])
    x, _, _ = subset.read(names)
    y = classifier.probabilities(x).argmax(1)
    method = METHODS.make(f"{name}(points=5, iterations=5)")
    before = classifier.passes.copy()
    with torch.no_grad():
        maps = method(classifier, x, y, ImageRandom(0, names))
    used, most = classifier.passes - before, method.cost(classifier.shape) * 2
    assert used.backward == most.backward
    assert most.backward < used.forward < most.forward
    assert maps.min() >= 0
    assert maps.max() <= 1
    blur = gaussian_blur(x, 6.25, 3)
    p = [
        classifier.probabilities(torch.lerp(x, blur, share)).gather(1, y[:, None])
        for share in (maps[:, None], maps.flip(1)[:, None])
    ]
    assert (p[0] < p[1]).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["igos", "igos++"])
def test_batch_size_and_repetition_change_nothing(name, shape):
    assert_iterative_batch_invariant(METHODS.make(f"{name}(points=3, iterations=3, sparsity=0.0)"), shape)


def test_defaults_sweeps_and_costs_follow_the_image_size():
    for name, scores in (("igos", 1), ("igos++", 4)):
        method = METHODS.make(name)
        assert trials(1000.0) == 13
        assert method.cost((1, 28, 28)) == Passes(scores * 300 * 14, scores * 300)
        assert method.resolved((3, 224, 224)) == method.replace(upsample=8)
        assert method.resolved((1, 28, 28)) == method.at_upsample(2) == method.replace(upsample=2)
        assert [m.seed for m in method.sweeps((1, 28, 28))["seeds"]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("argument", ["iterations=0", "points=0", "upsample=0", "step=0.0", "sparsity=-1.0", "smoothness=-1.0"])
def test_impossible_parameters_are_refused(argument):
    for name in ("igos", "igos++"):
        with pytest.raises(XbenchError, match=f"{argument.partition('=')[0]} must"):
            METHODS.make(f"{name}({argument})")

"""Deletion, against a loop that removes pixel by pixel and against linear classifiers whose curve is known."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from xbench import METRICS, Method
from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.metric import Scored
from xbench.metrics._removal import removed_counts
from xbench.metrics.deletion import Deletion
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.testing import tiny_batch, tiny_classifier

SHAPES = [(1, 28, 28), (3, 10, 9)]


def sharp_classifier(shape: tuple[int, int, int] = (1, 28, 28)) -> Classifier:
    """The tiny classifier with larger logits, so that removing pixels matters."""
    classifier = tiny_classifier(shape)
    with torch.no_grad():
        classifier.module.fc.weight.mul_(30)
    return classifier


def maps_of(batch: Batch, seed: int = 0) -> Tensor:
    shape = (len(batch), *batch.x.shape[2:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(batch.x)


def score(classifier: Classifier, batch: Batch, maps: Tensor, seed: int = 0) -> Scored:
    return Deletion()(Explainer(Method(), classifier, seed), batch, maps)


def part(batch: Batch, index: list[int]) -> Batch:
    return Batch([batch.ids[i] for i in index], batch.x[index], batch.label[index], batch.target[index])


def linear(weight: Tensor, bias: float = 0.0) -> Classifier:
    """Two classes whose log odds are bias + sum of weight (h, w) times the normalised pixels."""
    h, w = weight.shape
    layer = nn.Linear(h * w, 2, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(h * w), weight.flatten()]))
        layer.bias.copy_(torch.tensor([0.0, bias]))
    shape = (1, h, w)
    classifier = Classifier(
        nn.Sequential(nn.Flatten(), layer),
        name="linear",
        shape=shape,
        classes=2,
        label_space="two",
        mean=[0.25],
        std=[0.5],
        cam_layer=None,
        stages=[],
    )
    return classifier.to(weight.dtype)


def of_class_one(x: Tensor) -> Batch:
    ones = torch.ones(len(x), dtype=torch.int64)
    return Batch([f"image-{i}" for i in range(len(x))], x, ones, ones)


def slow(classifier: Classifier, batch: Batch, maps: Tensor, seed: int) -> tuple[list[list[float]], list[float]]:
    """The definition: sort the pixels of one image, gray them out one after the other, look at the class now and then."""
    pixels = maps[0].numel()
    step = math.ceil(pixels / 28)
    curves, areas = [], []
    for i in range(len(batch)):
        values = maps[i].flatten().tolist()
        ties = ImageRandom(seed, [batch.ids[i]]).uniform("ties", (pixels,))[0].tolist()
        image = batch.x[i : i + 1].clone()
        curve, share = [], []
        for position, pixel in enumerate([*sorted(range(pixels), key=lambda p: (-values[p], ties[p])), None]):
            if position % step == 0 or pixel is None:
                curve.append(float(classifier(image).softmax(1)[0, batch.target[i]]))
                share.append(position / pixels)
            if pixel is not None:
                image[0, :, pixel // maps.shape[2], pixel % maps.shape[2]] = classifier.mean.flatten()
        curves.append(curve)
        areas.append(sum((share[j + 1] - share[j]) * (curve[j] + curve[j + 1]) / 2 for j in range(len(curve) - 1)))
    return curves, areas


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ties", [False, True])
def test_equals_the_definition(shape: tuple[int, int, int], ties: bool) -> None:
    classifier = sharp_classifier(shape).double()
    batch = tiny_batch(3, classifier)
    maps = maps_of(batch).round() if ties else maps_of(batch)
    scored = score(classifier, batch, maps, seed=5)
    with torch.no_grad():
        curves, areas = slow(classifier, batch, maps, seed=5)
    torch.testing.assert_close(scored.curves["probability"], torch.tensor(curves).double())
    torch.testing.assert_close(scored.scores["auc"], torch.tensor(areas).double())


@pytest.mark.parametrize(
    ("pixels", "points", "last"), [(784, 29, 28), (50_176, 29, 1792), (1024, 29, 25), (90, 24, 2), (28, 29, 1), (5, 6, 1)]
)
def test_steps_are_exact_counts(pixels: int, points: int, last: int) -> None:
    counts = removed_counts(pixels)
    assert counts[0] == 0
    assert counts[-1] == pixels
    assert len(counts) == points
    assert set(counts.diff()[:-1].tolist()) == {math.ceil(pixels / 28)}
    assert counts[-1] - counts[-2] == last


def test_linear_classifier_has_the_sigmoid_of_the_remaining_sum() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.rand(8, 7, generator=generator, dtype=torch.float64) - 0.3
    x = torch.rand(2, 1, 8, 7, generator=generator, dtype=torch.float64)
    contribution = weight * (x[:, 0] - 0.25) / 0.5
    ordered = contribution.flatten(1).sort(dim=1, descending=True).values
    remaining = torch.stack([0.2 + ordered[:, n:].sum(1) for n in range(0, 57, 2)], 1)
    scored = score(linear(weight, 0.2), of_class_one(x), contribution)
    torch.testing.assert_close(scored.curves["probability"], remaining.sigmoid())


def test_even_image_has_the_area_of_the_integral() -> None:
    """With equal pixels the log odds fall linearly from a to 0: the area tends to (log(1 + e^a) - log 2) / a."""
    a = 3.0
    weight = torch.full((28, 28), a * 0.5 / (0.5 * 784), dtype=torch.float64)
    batch = of_class_one(torch.full((1, 1, 28, 28), 0.75, dtype=torch.float64))
    area = score(linear(weight), batch, maps_of(batch)).scores["auc"]
    assert float(area) == pytest.approx((math.log1p(math.exp(a)) - math.log(2)) / a, abs=2e-4)


def test_area_is_not_divided_by_the_maximum() -> None:
    batch = of_class_one(torch.full((2, 1, 6, 6), 0.9, dtype=torch.float64))
    scored = score(linear(torch.zeros(6, 6, dtype=torch.float64), math.log(3 / 7)), batch, maps_of(batch))
    torch.testing.assert_close(scored.scores["auc"], torch.full((2,), 0.3, dtype=torch.float64))


def test_best_order_of_a_linear_classifier_has_the_lowest_area() -> None:
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    batch = of_class_one(torch.rand(5, 1, 8, 8, generator=generator, dtype=torch.float64))
    best = weight * (batch.x[:, 0] - 0.25)
    areas = [score(linear(weight), batch, maps).scores["auc"] for maps in (best, maps_of(batch), -best)]
    assert (areas[0] < areas[1]).all()
    assert (areas[1] < areas[2]).all()


def test_only_the_order_of_a_map_matters() -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(4, classifier)
    maps = maps_of(batch).round()
    expected = score(classifier, batch, maps).scores["auc"]
    for transformed in (2 * maps + 5, maps - 100, maps.exp()):
        assert torch.equal(score(classifier, batch, transformed).scores["auc"], expected)
    assert not torch.allclose(score(classifier, batch, -maps).scores["auc"], expected)


def test_constant_and_one_hot_maps_are_scored_in_the_order_of_the_draws() -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(4, classifier)
    ties = ImageRandom(7, batch.ids).uniform("ties", (784,)).view(4, 28, 28)
    expected = score(classifier, batch, -ties, seed=7).scores["auc"]
    for value in (0.0, -1.0, 3.0):
        assert torch.equal(score(classifier, batch, torch.full((4, 28, 28), value), seed=7).scores["auc"], expected)
    assert not torch.equal(score(classifier, batch, torch.zeros(4, 28, 28), seed=8).scores["auc"], expected)
    one_hot = torch.zeros(4, 28, 28)
    one_hot[:, 14, 14] = 1
    first = -ties
    first[:, 14, 14] = 1
    assert torch.equal(score(classifier, batch, one_hot, seed=7).scores["auc"], score(classifier, batch, first).scores["auc"])


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_change_nothing(size: int) -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(9, classifier)
    maps = maps_of(batch).round()
    expected = score(classifier, batch, maps).scores["auc"]
    classifier.batch_size = size
    torch.testing.assert_close(score(classifier, batch, maps).scores["auc"], expected, rtol=0, atol=1e-5)
    parts = torch.arange(9).split(size)
    found = [score(classifier, part(batch, index.tolist()), maps[index]).scores["auc"] for index in parts]
    torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_passes_are_what_cost_says(shape: tuple[int, int, int]) -> None:
    classifier = sharp_classifier(shape)
    batch = tiny_batch(3, classifier)
    classifier.passes = Passes()
    score(classifier, batch, maps_of(batch))
    assert classifier.passes == Deletion().cost(Method(), classifier) * 3
    assert Deletion().cost(Method(), sharp_classifier()) == Passes(forward=29)


def test_explains_the_class_of_the_batch() -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(2, classifier)
    other = dataclasses.replace(batch, target=(batch.target + 1) % 4)
    assert not torch.allclose(
        score(classifier, batch, maps_of(batch)).scores["auc"], score(classifier, other, maps_of(batch)).scores["auc"]
    )


def test_is_registered_and_lower_is_better() -> None:
    metric = METRICS.make("deletion")
    assert metric == Deletion()
    assert [(column.name, column.higher_is_better) for column in metric.columns] == [("auc", False)]

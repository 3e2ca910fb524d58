"""Deletion, against a loop that removes pixel by pixel and against linear classifiers whose curve is known."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from given_maps import in_order, linear, maps_of, of_class, sharp_classifier
from torch import Tensor

from xbench import METRICS, Method
from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.metric import Scored
from xbench.metrics._removal import removed_counts
from xbench.metrics.deletion import Deletion
from xbench.subset import Batch
from xbench.testing import tiny_batch

SHAPES = [(1, 28, 28), (3, 10, 9)]


def score(classifier: Classifier, batch: Batch, maps: Tensor, seed: int = 0) -> Scored:
    return Deletion()(Explainer(Method(), classifier, seed), batch, maps)


def slow(classifier: Classifier, batch: Batch, maps: Tensor, seed: int) -> tuple[list[list[float]], list[float]]:
    """The definition: sort the pixels of one image, gray them out one after the other, look at the class now and then."""
    pixels = maps[0].numel()
    step = math.ceil(pixels / 28)
    curves, areas = [], []
    for i in range(len(batch)):
        image = batch.x[i : i + 1].clone()
        curve, share = [], []
        for position, pixel in enumerate([*in_order(maps[i], batch.ids[i], seed), None]):
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
    counts = torch.tensor(removed_counts(pixels))
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
    scored = score(linear(weight[None], 0.2, 0.25, 0.5), of_class(x), contribution)
    torch.testing.assert_close(scored.curves["probability"], remaining.sigmoid())


def test_even_image_has_the_area_of_the_integral() -> None:
    """With equal pixels the log odds fall linearly from a to 0: the area tends to (log(1 + e^a) - log 2) / a."""
    a = 3.0
    weight = torch.full((28, 28), a * 0.5 / (0.5 * 784), dtype=torch.float64)
    batch = of_class(torch.full((1, 1, 28, 28), 0.75, dtype=torch.float64))
    area = score(linear(weight[None], 0.0, 0.25, 0.5), batch, maps_of(batch)).scores["auc"]
    assert float(area) == pytest.approx((math.log1p(math.exp(a)) - math.log(2)) / a, abs=2e-4)


def test_area_is_not_divided_by_the_maximum() -> None:
    batch = of_class(torch.full((2, 1, 6, 6), 0.9, dtype=torch.float64))
    scored = score(linear(torch.zeros(1, 6, 6, dtype=torch.float64), math.log(3 / 7)), batch, maps_of(batch))
    torch.testing.assert_close(scored.scores["auc"], torch.full((2,), 0.3, dtype=torch.float64))


def test_best_order_of_a_linear_classifier_has_the_lowest_area() -> None:
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    batch = of_class(torch.rand(5, 1, 8, 8, generator=generator, dtype=torch.float64))
    best = weight * (batch.x[:, 0] - 0.25)
    areas = [score(linear(weight[None], 0.0, 0.25, 0.5), batch, maps).scores["auc"] for maps in (best, maps_of(batch), -best)]
    assert (areas[0] < areas[1]).all()
    assert (areas[1] < areas[2]).all()


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

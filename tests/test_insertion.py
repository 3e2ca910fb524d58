"""Insertion, against a loop that shows pixel after pixel and against linear classifiers whose curve is known."""

from __future__ import annotations

import math

import pytest
import torch
from given_maps import in_order, linear, maps_of, of_class, sharp_classifier
from torch import Tensor

from xbench import METRICS, Method
from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.metric import Scored
from xbench.metrics.deletion import Deletion
from xbench.metrics.insertion import Insertion, substrate
from xbench.subset import Batch
from xbench.testing import tiny_batch


def score(classifier: Classifier, batch: Batch, maps: Tensor, seed: int = 0) -> Scored:
    return Insertion()(Explainer(Method(), classifier, seed), batch, maps)


def blurred(image: Tensor) -> Tensor:
    """The definition, of one image (c, h, w): a normalised Gaussian window around every pixel, borders repeated."""
    c, h, w = image.shape
    sigma = 5 * h / 224
    reach = math.ceil(sigma)
    found = torch.zeros_like(image)
    for row in range(h):
        for column in range(w):
            total, weights = torch.zeros(c, dtype=image.dtype), 0.0
            for i in range(-reach, reach + 1):
                for j in range(-reach, reach + 1):
                    weight = math.exp(-(i * i + j * j) / (2 * sigma**2))
                    total += weight * image[:, min(max(row + i, 0), h - 1), min(max(column + j, 0), w - 1)]
                    weights += weight
            found[:, row, column] = total / weights
    return found


def slow(classifier: Classifier, batch: Batch, maps: Tensor, seed: int) -> tuple[list[list[float]], list[float]]:
    """The definition: blur one image, show its pixels one after the other, look at the class now and then."""
    pixels = maps[0].numel()
    step = math.ceil(pixels / 28)
    curves, areas = [], []
    for i in range(len(batch)):
        image = blurred(batch.x[i])[None]
        curve, share = [], []
        for position, pixel in enumerate([*in_order(maps[i], batch.ids[i], seed), None]):
            if position % step == 0 or pixel is None:
                curve.append(float(classifier(image).softmax(1)[0, batch.target[i]]))
                share.append(position / pixels)
            if pixel is not None:
                row, column = divmod(pixel, maps.shape[2])
                image[0, :, row, column] = batch.x[i, :, row, column]
        curves.append(curve)
        areas.append(sum((share[j + 1] - share[j]) * (curve[j] + curve[j + 1]) / 2 for j in range(len(curve) - 1)))
    return curves, areas


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 10, 9)])
def test_equals_the_definition(shape: tuple[int, int, int]) -> None:
    classifier = sharp_classifier(shape).double()
    batch = tiny_batch(3, classifier)
    maps = maps_of(batch)
    maps[1] = maps[1].round()  # ties
    scored = score(classifier, batch, maps, seed=5)
    with torch.no_grad():
        curves, areas = slow(classifier, batch, maps, seed=5)
    torch.testing.assert_close(scored.curves["probability"], torch.tensor(curves).double())
    torch.testing.assert_close(scored.scores["auc"], torch.tensor(areas).double())


@pytest.mark.parametrize(("side", "kernel"), [(224, 11), (28, 3), (448, 21)])
def test_the_blur_scales_with_the_height(side: int, kernel: int) -> None:
    """Of a single white pixel: an 11-px square at 224 px, whose middle is e^(1/50) times as bright as its neighbours there."""
    x = torch.zeros(1, 1, side, side, dtype=torch.float64)
    x[..., side // 2, side // 2] = 1
    found = substrate(x)[0, 0]
    assert int((found > 0).sum()) == kernel**2
    ratio = found[side // 2, side // 2] / found[side // 2, side // 2 + 1]
    assert float(ratio) == pytest.approx(math.exp(0.5 * (224 / (5 * side)) ** 2))
    assert float(found.sum()) == pytest.approx(1)


def test_linear_classifier_has_the_sigmoid_of_the_sum_so_far() -> None:
    """Every pixel shown adds its weight times what the blur took from it, the largest first."""
    generator = torch.Generator().manual_seed(3)
    weight, x = torch.randn(2, 8, 7, generator=generator).double(), torch.rand(2, 2, 8, 7, generator=generator).double()
    gain = (weight * (x - substrate(x)) / 0.5).sum(1)
    start = 0.2 + (weight * (substrate(x) - 0.25) / 0.5).sum((1, 2, 3))
    ordered = gain.flatten(1).sort(dim=1, descending=True).values
    so_far = torch.stack([start + ordered[:, :n].sum(1) for n in range(0, 57, 2)], 1)
    classifier = linear(weight, 0.2, 0.25, 0.5)
    scored = score(classifier, of_class(x), gain)
    torch.testing.assert_close(scored.curves["probability"], so_far.sigmoid())
    worst = score(classifier, of_class(x), -gain)
    assert (scored.scores["auc"] > worst.scores["auc"]).all()


def test_a_flat_image_has_the_area_of_its_probability() -> None:
    """There is nothing to blur, and the area is not divided by the maximum."""
    batch = of_class(torch.full((2, 1, 6, 6), 0.9, dtype=torch.float64))
    scored = score(linear(torch.zeros(1, 6, 6, dtype=torch.float64), math.log(3 / 7)), batch, maps_of(batch))
    torch.testing.assert_close(scored.scores["auc"], torch.full((2,), 0.3, dtype=torch.float64))


def test_ends_and_steps_are_those_of_deletion() -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(3, classifier)
    curve = score(classifier, batch, maps_of(batch)).curves["probability"]
    assert curve.shape == Deletion()(Explainer(Method(), classifier), batch, maps_of(batch)).curves["probability"].shape
    for at, x in ((0, substrate(batch.x)), (-1, batch.x)):
        torch.testing.assert_close(curve[:, at], classifier.probabilities(x).gather(1, batch.target[:, None])[:, 0])


def test_is_registered_and_costs_29_passes_on_digits() -> None:
    metric = METRICS.make("insertion")
    assert metric == Insertion()
    assert [(column.name, column.higher_is_better) for column in metric.columns] == [("auc", True)]
    classifier = sharp_classifier()
    batch = tiny_batch(2, classifier)
    classifier.passes = Passes()
    score(classifier, batch, maps_of(batch))
    assert classifier.passes == metric.cost(Method(), classifier) * 2 == Passes(forward=58)

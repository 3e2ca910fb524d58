"""The deletion and insertion game, against a loop over its definition and against a classifier that looks at one pixel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from given_maps import in_order, maps_of, sharp_classifier
from perturbed import affine
from torch import Tensor

from xbench import METRICS, Method
from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.metric import Scored
from xbench.metrics.game import Game
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.testing import tiny_batch

COLUMNS = ["insertion", "deletion", "overall"]


def score(classifier: Classifier, batch: Batch, maps: Tensor, seed: int = 0) -> Scored:
    return Game()(Explainer(Method(), classifier, seed), batch, maps)


def imputed(x: Tensor, missing: list[int]) -> Tensor:
    """One image (c, h, w) whose missing pixels are the weighted mean of their neighbours, from a dense system of equations."""
    c, h, w = x.shape
    values = x.flatten(1).clone()
    if len(missing) == h * w:
        return x.mean((1, 2), keepdim=True).expand_as(x)
    number = {pixel: k for k, pixel in enumerate(missing)}
    matrix, constant = np.zeros((len(missing), len(missing))), np.zeros((len(missing), c))
    for pixel, k in number.items():
        for down, right in [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]:
            row, column = pixel // w + down, pixel % w + right
            if 0 <= row < h and 0 <= column < w:
                weight = 1 / 12 if down and right else 1 / 6
                matrix[k, k] += weight
                other = row * w + column
                if other in number:
                    matrix[k, number[other]] -= weight
                else:
                    constant[k] += weight * values[:, other].numpy()
    values[:, missing] = torch.from_numpy(np.linalg.solve(matrix, constant)).T.to(values)
    return values.view_as(x)


def slow(classifier: Classifier, batch: Batch, maps: Tensor, seed: int) -> dict[str, Tensor]:
    """The definition, one image and one mask at a time; the curves of both games."""
    h, w = maps.shape[1:]
    pixels = h * w
    counts = [int(k * pixels / 10 + 0.5) for k in range(11)]
    found: dict[str, list[list[float]]] = {"insertion": [], "deletion": []}
    for i in range(len(batch)):
        rng = ImageRandom(seed, [batch.ids[i]])
        order = in_order(maps[i], batch.ids[i], seed)
        for game, curve in found.items():
            curve.append([])
            for k, count in enumerate(counts):
                missing = order[count:] if game == "insertion" else order[:count]
                noise = rng.normal("fill", batch.x.shape[1:], 10 - k if game == "insertion" else k)[0].to(batch.x)
                image = (batch.x[i] if not missing else imputed(batch.x[i], missing) + 0.01 * noise).flatten(1)
                kept = sorted(set(range(pixels)) - set(missing))
                image[:, kept] = batch.x[i].flatten(1)[:, kept]
                probability = classifier(image.view_as(batch.x[i])[None]).softmax(1)[0, batch.target[i]]
                curve[-1].append(float(probability))
    return {game: torch.tensor(curves).to(batch.x) for game, curves in found.items()}


@pytest.mark.parametrize(("shape", "ties"), [((1, 28, 28), False), ((3, 10, 9), False), ((3, 10, 9), True)])
def test_equals_the_definition(shape: tuple[int, int, int], ties: bool) -> None:
    classifier = sharp_classifier(shape).double()
    batch = tiny_batch(2, classifier)
    maps = maps_of(batch).round() if ties else maps_of(batch)
    scored = score(classifier, batch, maps, seed=5)
    with torch.no_grad():
        expected = slow(classifier, batch, maps, seed=5)
    for name, curve in expected.items():
        torch.testing.assert_close(scored.curves[name], curve)
        torch.testing.assert_close(scored.scores[name], curve.mean(1))
    torch.testing.assert_close(scored.scores["overall"], (expected["insertion"] - expected["deletion"]).mean(1))


def test_classifier_of_one_pixel_among_equal_ones() -> None:
    """p = the value of one pixel, 0.9 among pixels of 0.4: exact where it is kept, elsewhere the others' mean and noise."""
    weight = torch.zeros(1, 10, 10)
    weight[0, 4, 5] = 1
    classifier = affine(weight.double(), 0.0, mean=0.0).double()
    x = torch.full((1, 1, 10, 10), 0.4, dtype=torch.float64)
    x[..., 4, 5] = 0.9
    zero = torch.zeros(1, dtype=torch.int64)
    batch = Batch(["a"], x, zero, zero)
    noise = torch.cat([ImageRandom(3, ["a"]).normal("fill", (1, 10, 10), k)[:, 0, 4, 5] for k in range(1, 11)])
    missing = torch.tensor([0.4] * 9 + [0.405]).double() + 0.01 * noise  # when nothing is observed, the mean of the image
    for value, seen, unseen in ((1.0, "insertion", "deletion"), (-1.0, "deletion", "insertion")):
        curves = score(classifier, batch, value * weight.double(), seed=3).curves
        expected = {seen: [0.9] * 11, unseen: [0.9, *missing.tolist()]}
        expected[seen][10 if seen == "deletion" else 0] = float(missing[9])
        if unseen == "insertion":
            expected[unseen] = expected[unseen][::-1]
        for name, curve in expected.items():
            torch.testing.assert_close(curves[name][0], torch.tensor(curve).double(), rtol=0, atol=1e-7)


def test_curves_share_their_ends() -> None:
    classifier = sharp_classifier().double()
    batch = tiny_batch(3, classifier)
    curves = score(classifier, batch, maps_of(batch)).curves
    clean = classifier.probabilities(batch.x).gather(1, batch.target[:, None])[:, 0]
    torch.testing.assert_close(curves["insertion"][:, 10], clean)
    assert torch.equal(curves["deletion"][:, 0], curves["insertion"][:, 10])
    assert torch.equal(curves["deletion"][:, 10], curves["insertion"][:, 0])
    assert not torch.allclose(curves["deletion"], curves["insertion"].flip(1))


def test_negated_map_swaps_the_games() -> None:
    classifier = sharp_classifier().double()
    batch = tiny_batch(4, classifier)
    scored, negated = score(classifier, batch, maps_of(batch)), score(classifier, batch, -maps_of(batch))
    assert (scored.scores["overall"].abs() > 1e-4).all()
    torch.testing.assert_close(negated.scores["overall"], -scored.scores["overall"], rtol=0, atol=1e-7)
    torch.testing.assert_close(negated.curves["insertion"], scored.curves["deletion"].flip(1), rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 10, 9)])
def test_passes_are_what_cost_says(shape: tuple[int, int, int]) -> None:
    classifier = sharp_classifier(shape)
    batch = tiny_batch(3, classifier)
    classifier.passes = Passes()
    score(classifier, batch, maps_of(batch))
    assert classifier.passes == Game().cost(Method(), classifier) * 3 == Passes(forward=60)


def test_explains_the_class_of_the_batch() -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(2, classifier)
    other = dataclasses.replace(batch, target=(batch.target + 1) % 4)
    found, others = (score(classifier, b, maps_of(batch)).scores for b in (batch, other))
    assert not any(torch.allclose(found[name], others[name]) for name in COLUMNS)


def test_is_registered_with_its_directions() -> None:
    assert METRICS.make("game") == Game()
    assert [(column.name, column.higher_is_better) for column in Game.columns] == list(
        zip(COLUMNS, [True, False, True], strict=True)
    )

"""Top/low-k area, against a loop over the definition and against linear classifiers whose logit area is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from given_maps import in_order, linear, maps_of, sharp_classifier
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from xbench import METRICS, Method, XbenchError
from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.fill import CONSTANT
from xbench.metric import Scored
from xbench.metrics.area import Area
from xbench.rng import ImageRandom
from xbench.subset import Batch
from xbench.testing import tiny_batch

RANKED = ["probability", "logit", "kl"]


def score(classifier: Classifier, batch: Batch, maps: Tensor, metric: Area | None = None, seed: int = 0) -> Scored:
    return (metric or Area())(Explainer(Method(), classifier, seed), batch, maps)


def slow(classifier: Classifier, batch: Batch, maps: Tensor, fill: Tensor, seed: int) -> dict[str, Tensor]:
    """The definition, one image and one pixel at a time."""
    pixels = maps[0].numel()
    counts = [int(k * pixels / 10 + 0.5) for k in range(11)]
    found: dict[str, list[float]] = {name: [] for name in RANKED}
    for i in range(len(batch)):
        order = in_order(maps[i], batch.ids[i], seed)
        clean = classifier(batch.x[i : i + 1])[0]
        target = batch.target[i]
        change: dict[str, list[list[float]]] = {name: [[], []] for name in RANKED}
        for side, ranking in enumerate((order, order[::-1])):
            for count in counts:
                image = batch.x[i].clone()
                for pixel in ranking[:count]:
                    y, x = divmod(pixel, maps.shape[2])
                    image[:, y, x] = fill[i, :, y, x]
                logits = classifier(image[None])[0]
                change["probability"][side].append(float(clean.softmax(0)[target] - logits.softmax(0)[target]))
                change["logit"][side].append(float(clean[target] - logits[target]))
                change["kl"][side].append(float(kl_divergence(Categorical(logits=clean), Categorical(logits=logits))))
        for name, (top, low) in change.items():
            difference = np.array(top) - np.array(low)
            found[name].append(float(((difference[1:] + difference[:-1]) / 2 * np.diff(counts)).sum() / pixels))
    return {name: torch.tensor(values).double() for name, values in found.items()}


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 10, 9)])
@pytest.mark.parametrize("fill", ["gray", "zero", "noise"])
def test_equals_the_definition(shape: tuple[int, int, int], fill: str) -> None:
    classifier = sharp_classifier(shape).double()
    batch = tiny_batch(3, classifier)
    maps = maps_of(batch)
    maps[1] = maps[1].round()  # ties
    replacement = {
        "gray": torch.full_like(batch.x, 0.5),
        "zero": torch.zeros_like(batch.x),
        "noise": 0.5 + 0.2 * ImageRandom(5, batch.ids).normal("fill", shape).double(),
    }
    scored = score(classifier, batch, maps, Area(fill=fill), seed=5)
    with torch.no_grad():
        expected = slow(classifier, batch, maps, replacement[fill], seed=5)
    for name in RANKED:
        torch.testing.assert_close(scored.scores[name], expected[name])
    torch.testing.assert_close(scored.scores["kl_over_K"], expected["kl"] / 4)


def test_logit_area_of_a_linear_classifier() -> None:
    """Pixels worth 0, 1, .., n - 1: the m best are worth m (n - m) more than the m worst, at 11 points .165 n^2 in all."""
    worth = torch.randperm(100, generator=torch.Generator().manual_seed(1)).double().view(10, 10)
    batch = Batch(["a"], torch.full((1, 1, 10, 10), 0.5).double(), torch.ones(1).long(), torch.ones(1).long())
    area = score(linear(2 * worth[None]), batch, worth[None]).scores["logit"]
    assert float(area) == pytest.approx(0.165 * 100**2)


def test_curves_hold_what_remains_and_share_their_ends() -> None:
    classifier = sharp_classifier().double()
    batch = tiny_batch(3, classifier)
    curves = score(classifier, batch, maps_of(batch)).curves
    assert sorted(curves) == sorted(f"{name} {end}" for name in RANKED for end in ("top", "low"))
    logits, filled = (classifier(x).detach() for x in (batch.x, torch.full_like(batch.x, 0.5)))
    at = torch.arange(3), batch.target
    for end in ("top", "low"):
        assert all(curves[f"{name} {end}"].shape == (3, 11) for name in RANKED)
        for index, expected in ((0, logits), (10, filled)):
            torch.testing.assert_close(curves[f"logit {end}"][:, index], expected[at])
            torch.testing.assert_close(curves[f"probability {end}"][:, index], expected.softmax(1)[at])
        assert torch.equal(curves[f"kl {end}"][:, 0], torch.zeros(3).double())
        assert (curves[f"kl {end}"][:, 1:] > 0).all()
    assert not torch.allclose(curves["probability top"], curves["probability low"])


def test_negated_map_has_the_negative_score() -> None:
    classifier = sharp_classifier().double()
    batch = tiny_batch(4, classifier)
    scored, negated = score(classifier, batch, maps_of(batch)).scores, score(classifier, batch, -maps_of(batch)).scores
    for name in scored:
        assert (scored[name].abs() > 1e-4).all()
        torch.testing.assert_close(negated[name], -scored[name])


def test_every_fill_costs_twenty_passes_and_scores_differently() -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(3, classifier)
    classifier.passes = Passes()
    scores = [score(classifier, batch, maps_of(batch), Area(fill=fill)).scores["logit"] for fill in CONSTANT]
    assert classifier.passes == Area().cost(Method(), classifier) * 3 * len(CONSTANT)
    assert Area().cost(Method(), classifier) == Passes(forward=20)
    assert len({tuple(values.tolist()) for values in scores}) == len(CONSTANT)


def test_explains_the_class_of_the_batch() -> None:
    classifier = sharp_classifier()
    batch = tiny_batch(2, classifier)
    other = dataclasses.replace(batch, target=(batch.target + 1) % 4)
    found = [score(classifier, b, maps_of(batch)).scores for b in (batch, other)]
    assert not torch.allclose(found[0]["probability"], found[1]["probability"])
    assert torch.equal(found[0]["kl"], found[1]["kl"])  # a divergence of all classes


def test_is_registered_with_its_directions() -> None:
    assert METRICS.make('area(fill="zero")') == Area(fill="zero")
    directions = {column.name: column.higher_is_better for column in Area.columns}
    assert directions == {"probability": True, "logit": True, "kl": True, "kl_over_K": None}


def test_refuses_an_unknown_fill() -> None:
    with pytest.raises(ValueError, match="fill must be one of biharmonic, blur, gray"):
        Area(fill="grey")
    with pytest.raises(XbenchError, match="area"):
        METRICS.make('area(fill="grey")')

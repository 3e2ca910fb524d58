"""What must hold for every metric that scores given maps: invariances, ties, extreme maps, batches, seeds, reasons."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from given_maps import maps_of, part, sharp_classifier
from torch import Tensor

from xbench import CLASSIFIERS, DATASETS, METRICS, Batch, Classifier, Explainer, ImageRandom, Method, Metric
from xbench.metric import Scored
from xbench.testing import tiny_batch

RANKING = ["area", "deletion", "game", "insertion", "low-k-kl", "pointing-game"]
"""Only the order of a map's pixels matters."""
SCALED = ["energy-in-box", "localisation(alpha=0.3)", "saliency-metric(alpha=0.3)"]
"""Multiplying a map by a positive number changes nothing."""
GIVEN = [*RANKING, 'area(fill="mean-noise")', 'low-k-kl(fill="linear")', *SCALED, "infidelity(draws=4)"]
EXPLAINING = ["consistency", "efficiency", "randomisation", "sensitivity", "sensitivity-max", "stability"]
"""Metrics that ask for maps of their own; their own tests hold them to the same."""


def score(metric: str | Metric, classifier: Classifier, batch: Batch, maps: Tensor, seed: int = 0) -> Scored:
    metric = METRICS.make(metric) if isinstance(metric, str) else metric
    return metric(Explainer(Method(), classifier, seed), batch, maps)


def same(a: Scored, b: Scored) -> bool:
    return all(torch.equal(a.scores[name].nan_to_num(9), b.scores[name].nan_to_num(9)) for name in a.scores)


def case(count: int = 4) -> tuple[Classifier, Batch, Tensor]:
    """Maps with many ties, above and below zero; every image has its boxes in another place."""
    classifier = sharp_classifier()
    batch = tiny_batch(count, classifier)
    assert batch.boxes is not None
    boxes = [box[: 1 + i % 2] + i for i, box in enumerate(batch.boxes)]
    return classifier, dataclasses.replace(batch, boxes=boxes), maps_of(batch).round()


def test_every_metric_is_held_to_this() -> None:
    shipped = {name for name in METRICS.names() if METRICS.get(name).__module__.startswith("xbench.metrics.")}
    listed = {spec.partition("(")[0] for spec in [*GIVEN, *EXPLAINING]}
    assert listed <= shipped
    assert {name for name in shipped - listed if METRICS.get(name).uses_maps} == set()


@pytest.mark.parametrize("spec", RANKING)
def test_monotone_transforms_change_no_ranking_metric(spec: str) -> None:
    classifier, batch, maps = case()
    expected = score(spec, classifier, batch, maps)
    for transformed in (2 * maps + 5, maps - 100, maps.exp(), maps**3):
        found = score(spec, classifier, batch, transformed)
        assert same(found, expected)
        for name, curve in expected.curves.items():
            assert torch.equal(found.curves[name], curve)
    assert not same(score(spec, classifier, batch, -maps), expected)


@pytest.mark.parametrize("spec", SCALED)
def test_a_factor_changes_nothing_and_a_shift_does(spec: str) -> None:
    classifier, batch, maps = case(8)
    for factor in (0.25, 1024.0):
        assert same(score(spec, classifier, batch, factor * maps), score(spec, classifier, batch, maps))
    assert not same(score(spec, classifier, batch, maps + 5), score(spec, classifier, batch, maps))


def test_the_unit_of_a_map_matters_to_infidelity_and_not_when_scaled() -> None:
    classifier, batch, maps = case()
    plain, double, negative = (score("infidelity(draws=4)", classifier, batch, f * maps).scores for f in (1, 2, -1))
    assert not torch.allclose(plain["infidelity"], double["infidelity"])
    assert not torch.allclose(plain["infidelity"], negative["infidelity"])
    for other in (double, negative):
        torch.testing.assert_close(plain["scaled"], other["scaled"])


@pytest.mark.parametrize("spec", RANKING)
def test_constant_and_one_hot_maps_are_scored_in_the_order_of_the_draws(spec: str) -> None:
    classifier, batch, _ = case(8)
    ties = ImageRandom(7, batch.ids).uniform("ties", (784,)).view(8, 28, 28)
    expected = score(spec, classifier, batch, -ties, 7)
    for value in (0.0, -1.0, 3.0):
        assert same(score(spec, classifier, batch, torch.full((8, 28, 28), value), 7), expected)
    assert not same(score(spec, classifier, batch, torch.zeros(8, 28, 28), 8), expected)
    one_hot = torch.zeros(8, 28, 28)
    one_hot[:, 25, 2] = 1
    first = -ties
    first[:, 25, 2] = 1
    assert same(score(spec, classifier, batch, one_hot, 7), score(spec, classifier, batch, first, 7))
    assert not same(score(spec, classifier, batch, one_hot, 7), expected)


@pytest.mark.parametrize("spec", GIVEN)
def test_extreme_maps_have_a_score_or_a_reason(spec: str) -> None:
    classifier, batch, _ = case(6)
    assert batch.boxes is not None
    batch = dataclasses.replace(batch, boxes=[*batch.boxes[:5], torch.zeros(0, 4)])
    maps = torch.zeros(6, 28, 28)
    maps[1], maps[2], maps[3, 4, 5] = 1.0, -1.0, 1.0
    maps[4], maps[5] = 1e-30, 1e30
    scored = score(spec, classifier, batch, maps)
    for name, values in scored.scores.items():
        assert not values.isinf().any()
        assert set(values.isnan().nonzero()[:, 0].tolist()) == set(scored.reasons.get(name, {}))


@pytest.mark.parametrize("spec", GIVEN)
def test_the_same_seed_gives_the_same_bits(spec: str) -> None:
    classifier, batch, maps = case()
    first, second = (score(spec, classifier, batch, maps, 3) for _ in range(2))
    assert same(first, second)
    for name, curve in first.curves.items():
        assert torch.equal(curve, second.curves[name])


@pytest.mark.parametrize("spec", GIVEN)
def test_batches_change_nothing_on_digits(spec: str) -> None:
    """Batches of 1, 7 and 64, of images and of classifier passes, on the shipped classifier."""
    classifier, subset = CLASSIFIERS.make("mnist-cnn").load(), DATASETS.make("mnist").load()
    x, label, _ = subset.read(subset.ids[:9])
    box = torch.tensor([[6.0, 4.0, 22.0, 24.0]])
    batch = Batch(list(subset.ids[:9]), x, label, label, [box + i - 4 for i in range(9)])
    maps = x[:, 0] + 0.3 * maps_of(batch).round()
    classifier.batch_size = 64
    whole = score(spec, classifier, batch, maps)
    for size in (1, 7):
        classifier.batch_size = size
        parts = [score(spec, classifier, part(batch, at.tolist()), maps[at]) for at in torch.arange(9).split(size)]
        for name, values in whole.scores.items():
            found = torch.cat([each.scores[name] for each in parts])
            torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-5, equal_nan=True)

"""What a plan predicts: seconds of passes, of the fills made up for them, and of what a part takes beside both."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from xbench import CLASSIFIERS
from xbench.classifier import Classifier
from xbench.run import prediction
from xbench.run.machine import Speed
from xbench.run.plan import make_plan
from xbench.run.prediction import BESIDE, OWN, fill_seconds, fit_seconds, predicted
from xbench.run.suite import load_suite
from xbench.store import Store

SUITE = """
title = "Fills"
description = "A constant fill, and one that is made up from the kept pixels."
dataset = "mnist"
classifier = "mnist-cnn"
methods = ["random"]
metrics = [{ spec = "area(fill='zero')", images = 60 }, { spec = "game", images = 60 }]
"""


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return CLASSIFIERS.make("mnist-cnn").load()


def test_seconds_are_those_of_the_passes_the_fills_and_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fills.toml").write_text(SUITE)
    plan = make_plan(load_suite(str(tmp_path / "fills.toml")), Store(tmp_path / "store"))
    monkeypatch.setattr(prediction, "fill_seconds", lambda spec, classifier: {"linear": 5.0}.get(spec, 0.0))
    area, game = predicted(plan, Speed(forward=2.0)).values()
    passes = [plan.passes(cell).forward for cell in plan.todo]
    assert (area.passes, game.passes) == (2 * passes[0], 2 * passes[1])
    assert area.seconds == pytest.approx(2 * (1 + OWN) * passes[0] + 2 * BESIDE)
    assert game.seconds == pytest.approx((2 * (1 + OWN) + 5) * passes[1] + 2 * BESIDE)


def test_a_constant_fill_costs_nothing_and_others_what_they_take(classifier: Classifier) -> None:
    assert fill_seconds("blur", classifier) == 0
    assert fill_seconds("an entry's own", classifier) == 0
    linear, telea = fill_seconds("linear", classifier), fill_seconds("telea", classifier)
    assert linear > 0
    assert telea > 0


def test_a_fill_that_cannot_be_made_is_told_by_the_run_not_the_plan(classifier: Classifier) -> None:
    assert fill_seconds("torchscript:/no/such/file.pt:0123456789ab", classifier) == 0


def test_a_training_costs_what_its_steps_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fits.toml").write_text(
        SUITE.replace("area(fill='zero')", "randomisation").replace('random"]', 'nvp", "random"]')
    )
    plan = make_plan(load_suite(str(tmp_path / "fits.toml")), Store(tmp_path / "store"))
    monkeypatch.setattr(prediction, "once", lambda call, device: (call(), 2.0)[1])
    cell, control = (each for each in plan.todo if each.metric.name == "randomisation")
    before = plan.classifier.passes.copy()
    fits, steps = cell.metric.fits(cell.method, plan.classifier), math.ceil(4000 / cell.method.batch)
    assert fit_seconds(cell, plan) == fits * cell.method.refit["epochs"] * steps * 2.0 > 0
    assert fit_seconds(control, plan) == 0
    assert plan.classifier.passes == before
    alone = predicted(plan, Speed())
    assert alone[cell.key].seconds == pytest.approx(fit_seconds(cell, plan) + BESIDE * len(cell.missing))
    monkeypatch.setattr(type(cell.method), "loss", lambda *_: 1 / 0)  # which the run tells
    assert fit_seconds(cell, plan) == 0
    assert plan.classifier.passes == before


def test_a_method_that_optimises_has_no_more_images_at_a_time_than_it_is_given(tmp_path: Path) -> None:
    metrics = '{ spec = "efficiency(repeats=1)", images = 60 }, { spec = "sensitivity-max", images = 60 }'
    suite = SUITE.replace("random", "mp").split("metrics")[0] + f"metrics = [{metrics}]"
    (tmp_path / "mp.toml").write_text(suite)
    plan = make_plan(load_suite(str(tmp_path / "mp.toml")), Store(tmp_path / "store"))
    found = predicted(plan, Speed(call=1.0))
    each = [plan.passes(cell) + maps for cell, maps in zip(plan.todo, plan.map_passes(plan.todo), strict=True)]
    shares = [2 / 5 + 3 / 5 / 30, 1 / 30]  # efficiency: 2 of 5 times one image at a time, else the 30 of a part, like the other
    assert [found[cell.key].passes for cell in plan.todo] == pytest.approx(
        [passes.backward * share for passes, share in zip(each, shares, strict=True)]
    )

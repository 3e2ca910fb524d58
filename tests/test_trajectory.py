"""Answers that metrics share: the same scores as without sharing, each pass made once, planned, resumed, never mixed up."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from faults import content, in_child
from given_maps import maps_of, sharp_classifier
from rich.console import Console
from torch import Tensor

from xbench import METHODS, METRICS, Batch, Classifier, Explainer
from xbench.classifier import Passes
from xbench.guard import TooLong
from xbench.metric import Point
from xbench.run.cells import Cell, Plan
from xbench.run.machine import Speed
from xbench.run.plan import make_plan
from xbench.run.progress import Progress
from xbench.run.runner import run
from xbench.run.suite import Suite, load_suite
from xbench.store import Store
from xbench.testing import tiny_batch
from xbench.trajectory import Removal, points

SPECS = [
    "area",
    'area(fill="zero")',
    "low-k-kl",
    "deletion",
    "game",
    'area(fill="linear")',
    'low-k-kl(fill="linear")',
    'area(fill="noise")',
    "insertion",
    "infidelity(draws=5)",
]


def bound(
    store: Store | None, method: str = "intensity", dtype: torch.dtype = torch.float64
) -> tuple[Explainer, Batch, Tensor]:
    classifier = sharp_classifier().to(dtype)
    batch = tiny_batch(4, classifier)
    classifier.passes = Passes()
    return Explainer(METHODS.make(method), classifier, seed=3, store=store), batch, maps_of(batch)


def used(classifier: Classifier) -> float:
    made, classifier.passes = classifier.passes, Passes()
    return made.forward / 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("order", [1, -1])
def test_shared_scores_are_the_unshared_ones(tmp_path: Path, dtype: torch.dtype, order: int) -> None:
    alone, batch, maps = bound(None, dtype=dtype)
    together = dataclasses.replace(alone, store=Store(tmp_path))
    for spec in SPECS[::order]:
        metric = METRICS.make(spec)
        expected, found, again = (metric(explainer, batch, maps) for explainer in (alone, together, together))
        for kind in ("scores", "curves"):
            for name, values in getattr(expected, kind).items():
                limit = 1e-6 if dtype == torch.float32 else 1e-12
                torch.testing.assert_close(getattr(found, kind)[name], values, rtol=limit, atol=limit)
                assert torch.equal(getattr(again, kind)[name], getattr(found, kind)[name])


def test_no_pass_is_made_twice(tmp_path: Path) -> None:
    explainer, batch, maps = bound(Store(tmp_path))
    made = {}
    for spec in SPECS:
        METRICS.make(spec)(explainer, batch, maps)
        made[spec] = used(explainer.classifier)
    assert made == {
        "area": 20,
        'area(fill="zero")': 19,  # without the whole image
        "low-k-kl": 0,
        "deletion": 26,  # area has the whole, the half and the filled image
        "game": 19,
        'area(fill="linear")': 9,  # the top curve is the game's, with the same noise
        'low-k-kl(fill="linear")': 0,  # the game's insertion
        'area(fill="noise")': 19,
        "insertion": 28,
        "infidelity(draws=5)": 5,
    }
    for spec in SPECS:
        METRICS.make(spec)(explainer, batch, maps)
    assert used(explainer.classifier) == 0
    other = explainer.using(METHODS.make("random"))
    METRICS.make("infidelity(draws=5)")(other, batch, -maps)
    assert used(explainer.classifier) == 0
    METRICS.make("area")(other, batch, -maps)
    assert used(explainer.classifier) == 18


def test_answers_of_other_maps_classes_and_seeds_are_not_taken(tmp_path: Path) -> None:
    explainer, batch, maps = bound(Store(tmp_path))
    metric = METRICS.make('area(fill="noise")')
    metric(explainer, batch, maps)
    used(explainer.classifier)
    others = [
        (explainer, batch, -maps, 18),
        (explainer, dataclasses.replace(batch, target=(batch.target + 1) % 4), maps, 19),
        (dataclasses.replace(explainer, seed=4), batch, maps, 19),
    ]
    for one, images, given, passes in others:
        found = metric(one, images, given).scores["logit"]
        assert used(explainer.classifier) == passes
        torch.testing.assert_close(found, metric(dataclasses.replace(one, store=None), images, given).scores["logit"])
        used(explainer.classifier)


def test_points_are_what_is_asked_for(tmp_path: Path) -> None:
    class Listening:
        def __init__(self) -> None:
            self.asked: set[str] = set()

        def answers(self, key, label, ids, tag, names, compute):  # type: ignore[no-untyped-def]
            self.asked |= set(names)
            return compute(list(names)) if names else {}

    for spec in SPECS:
        store, metric = Listening(), METRICS.make(spec)
        explainer, batch, maps = bound(store)  # type: ignore[arg-type]
        metric(explainer, batch, maps)
        declared = metric.points(explainer.method, explainer.classifier)
        assert {point.name for point in declared} == store.asked
        assert len(set(declared)) == len(declared) == metric.cost(explainer.method, explainer.classifier).forward


def test_a_point_is_named_by_all_that_it_depends_on() -> None:
    removals = [Removal("top", 0, 1), Removal("top", 3, 1), Removal("low", 3, 2), Removal("low", 9, 2), Removal("top", 9, 2)]
    assert points("gray", removals, 9) == [
        Point("whole", False),
        Point("gray top 3", True),
        Point("gray low 3", True),
        Point("gray all", False),
        Point("gray all", False),
    ]
    assert [point.name for point in points("linear", removals, 9)[1:4]] == [
        "linear top 3 draw 1",
        "linear low 3 draw 2",
        "linear all draw 2",
    ]


def suite(specs: Sequence[tuple[str, int]], methods: Sequence[str] = ("edges", "intensity")) -> Suite:
    metrics = [{"spec": spec, "images": images} for spec, images in specs]
    return load_suite("faithfulness").model_validate(
        {**load_suite("faithfulness").model_dump(), "methods": list(methods), "metrics": metrics}
    )


MIXED = suite([('area(fill="zero")', 60), ("low-k-kl", 20), ("deletion", 55), ("infidelity(draws=3)", 7), ("localisation", 4)])


def planned(plan: Plan) -> dict[str, float]:
    return {cell.key: plan.passes(cell).forward for cell in plan.todo}


def complete(plan: Plan, progress: object = None) -> dict[str, float]:
    """Runs a plan; the forward passes that every cell's record tells."""
    with Progress(plan, Speed(1e-4, 1e-4), Console(quiet=True)) as quiet:
        results = run(plan, progress or quiet)  # type: ignore[arg-type]
    return {result.key: result.record["passes"]["forward"] for result in results}


def test_the_plan_is_what_is_counted(tmp_path: Path) -> None:
    plan = make_plan(MIXED, Store(tmp_path))
    expected, before = planned(plan), plan.classifier.passes.copy()
    first = [cell for cell in plan.cells if cell.method.spec == "edges"]
    # Black removals: 9 + 9 and all, the whole image; the lowest are there; 27 removals are gray, and all; 3 perturbations.
    assert [expected[cell.key] for cell in first] == [60 * 20, 0, 55 * 28, 7 * 3, 0]
    second = [cell for cell in plan.cells if cell.method.spec == "intensity"]
    assert [expected[cell.key] for cell in second] == [60 * 18, 0, 55 * 27, 0, 0]
    assert complete(plan) == expected
    assert (plan.classifier.passes - before).forward == sum(expected.values())


class Killed:
    """Ends the process once a metric's part is stored."""

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def start(self, cell: Cell) -> None: ...

    def finish(self, cell: Cell, index: int, outcome: str) -> None:
        if cell.metric.name == self.metric:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("metric", ["area", "low-k-kl", "deletion"])
def test_a_run_killed_between_two_metrics_asks_for_the_rest(tmp_path: Path, metric: str) -> None:
    small = suite([("area", 6), ("low-k-kl", 6), ('low-k-kl(fill="gray")', 6), ("deletion", 6)], ["edges"])
    whole = make_plan(small, Store(tmp_path / "whole"))
    once = complete(whole)
    child = in_child(lambda: complete(make_plan(small, Store(tmp_path / "killed")), Killed(metric)) and None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    plan = make_plan(small, Store(tmp_path / "killed"))
    expected, before = planned(plan), plan.classifier.passes.copy()
    assert len(expected) < 4
    assert expected == {key: once[key] for key in expected}, "nothing is asked again"
    complete(plan)
    assert (plan.classifier.passes - before).forward == sum(expected.values())
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_answers_are_reported_and_asked_for_again(tmp_path: Path, damage: str) -> None:
    small = suite([("area", 6), ("deletion", 6)], ["edges"])
    complete(make_plan(small, Store(tmp_path)))
    before = content(tmp_path)
    path = sorted((tmp_path / "answers").rglob("*.safetensors"))[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes({"truncated": bytes(data[:-9]), "flipped": bytes(data), "empty": b""}[damage])
    for part in (tmp_path / "results").rglob("part-*.json"):
        part.unlink()
    lines: list[str] = []
    complete(make_plan(small, Store(tmp_path, lines.append)))
    assert any(path.name in line and "damaged" in line for line in lines), lines
    assert content(tmp_path) == before


def test_a_deadline_that_ends_while_answers_are_written_is_no_failure_of_the_store(tmp_path: Path, monkeypatch) -> None:
    def late(*_: object) -> None:
        raise TooLong("took longer than 1 s")

    explainer, batch, maps = bound(Store(tmp_path))
    monkeypatch.setattr("xbench.store.save_weights", late)
    with pytest.raises(TooLong, match="took longer than 1 s"):
        METRICS.make("area")(explainer, batch, maps)

"""`xbench plan` and `xbench run`."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xbench.cli.common import (
    STORE,
    BatchOption,
    ClassifierOption,
    DatasetOption,
    DeviceOption,
    ImagesOption,
    LimitOption,
    MethodListOption,
    MethodsOption,
    PrecisionName,
    PrecisionOption,
    SeedOption,
    SetOption,
    StoreOption,
    SuiteOption,
    named,
    plan_of,
    stoppable,
)
from xbench.cli.telling import Detail, console, failed, note, say, show_table
from xbench.errors import XbenchError
from xbench.run.command import command_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xbench.result import Result
    from xbench.run.cells import Plan
    from xbench.run.prediction import Prediction


class Engine(StrEnum):
    """What computes the cells."""

    LOCAL = "local"
    RAY = "ray"


def plan(
    suite: SuiteOption,
    store: StoreOption = STORE,
    method: MethodsOption = None,
    methods: MethodListOption = None,
    images: ImagesOption = None,
    limit: LimitOption = None,
    settings: SetOption = None,
    dataset: DatasetOption = None,
    classifier: ClassifierOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = None,
    seed: SeedOption = None,
    precision: PrecisionOption = PrecisionName.FP32,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Shows what a run would compute: cells, classifier passes and predicted time; what is stored costs nothing."""
    from xbench.run.form import planned_speed
    from xbench.run.prediction import predicted

    method = named(method, methods)
    made = plan_of(
        suite,
        store,
        method,
        limit,
        dataset,
        classifier,
        device,
        batch_size,
        images=images,
        settings=settings,
        seed=seed,
        precision=precision,
    )
    cells_take = predicted(made, planned_speed(made, only_look=True))
    if as_json:
        typer.echo(json.dumps({**_facts(made, cells_take), "plan": _rows(made)}, indent=2))
        return
    cells = _rows(made)
    rows: list[list[str]] = []
    for row in cells:
        numbers = [
            f"{row['images']}",
            f"{row['stored_parts']}/{row['parts']}",
            f"{row['forward']:,.0f}",
            f"{row['backward']:,.0f}",
        ]
        if row["not_applicable"]:
            numbers = ["N/A", "", "", ""]
        rows.append([row["method"], row["metric"], *numbers])
    titles = ["method", "metric", "images", "stored parts", "forward", "backward"]
    show_table(titles, rows, f"{made.suite.title}: {made.subset.name} x {made.classifier.name}")
    note("Stored maps are made once for all metrics that read them; they count in the sum only.")
    note("Answers of the classifier that several cells need count for the first of them.")
    for line in _not_applicable(cells):
        note(f"N/A: {line}")
    say(_summary(made, cells_take))


def run(
    suite: SuiteOption,
    store: StoreOption = STORE,
    method: MethodsOption = None,
    methods: MethodListOption = None,
    images: ImagesOption = None,
    limit: LimitOption = None,
    settings: SetOption = None,
    dataset: DatasetOption = None,
    classifier: ClassifierOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="i/n: only the i-th of n shares of the work, e.g. in an array of jobs.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.001, help="Seconds after which a part (50 images) of a cell has failed.")
    ] = None,
    engine: Annotated[
        Engine, typer.Option("--engine", help="Where cells are computed: in this process, or by Ray.")
    ] = Engine.LOCAL,
    address: Annotated[
        str | None, typer.Option("--address", help="Of a Ray cluster, e.g. auto; without it Ray is started on this machine.")
    ] = None,
    seed: SeedOption = None,
    precision: PrecisionOption = PrecisionName.FP32,
) -> None:
    """Runs a suite, or what is left of it, and shows its board. A run that was stopped or killed goes on where it was.

    Several runs on one store, on one machine or on many that share its folder, divide the work among themselves.
    """
    from xbench.cli.boards import show_and_write
    from xbench.run.form import planned_speed
    from xbench.run.progress import Progress
    from xbench.run.runner import run as run_plan

    share = _share(shard)
    if address is not None and engine is not Engine.RAY:
        raise XbenchError("--address is that of a Ray cluster: it needs --engine ray")
    start = time.perf_counter()
    method = named(method, methods)
    made = plan_of(
        suite,
        store,
        method,
        limit,
        dataset,
        classifier,
        device,
        batch_size,
        images=images,
        settings=settings,
        seed=seed,
        precision=precision,
    )
    progress = Progress(made, planned_speed(made), console)
    note(_summary(made, progress.predicted))
    with stoppable(), progress:
        if engine is Engine.RAY:
            from xbench.run.ray_engine import run as run_on_ray

            found = run_on_ray(made, progress, share, timeout, address=address)
        else:
            found = run_plan(made, progress, share, timeout)
    command = command_of(suite, method, limit, dataset, classifier, images, settings, seed, precision)
    show_and_write(made, found, store / "boards", command, tell=note)
    _tell_each(made, found)
    holes = sum(result.status == "failed" for result in found)
    if holes:
        note(f"tracebacks: --verbose, or status.json below {store / 'results'}; the next run tries these cells again")
    say(f"{len(found)} cells, {holes} failed, {time.perf_counter() - start:.1f} s")
    if holes:
        raise typer.Exit(1)


def _tell_each(made: Plan, found: Sequence[Result]) -> None:
    """A line for every failed cell; under ``--verbose`` what every other one took, too, and the tracebacks."""
    for cell, result in zip(made.cells, found, strict=True):
        name = f"{result.metric} x {result.method}"
        if result.status == "failed":
            failed(f"{name} failed: {result.reason}")
            if Detail.wanted:
                failed(str((made.store.read_status(cell.folder) or {}).get("traceback", "")).rstrip())
        elif Detail.wanted and result.status == "ok":
            took, passes = result.record, result.record["passes"]
            note(
                f"{name}: {len(result.ids)} images in {took['seconds']:.1f} s, of which {took['seconds_maps']:.1f} s for maps; "
                f"{passes['forward']:,.0f} forward and {passes['backward']:,.0f} backward passes; {cell.folder}"
            )


def _share(shard: str | None) -> tuple[int, int]:
    """The numbers of ``i/n``; XbenchError unless 1 <= i <= n."""
    if shard is None:
        return 1, 1
    i, _, n = shard.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise XbenchError(f"--shard {shard!r}: write i/n with 1 <= i <= n, for instance 1/4, 2/4, 3/4, 4/4")
    return int(i), int(n)


def _summary(made: Plan, cells_take: dict[str, Prediction]) -> str:
    facts = _facts(made, cells_take)
    text = "{suite}: {cells} cells, {stored} stored, {not_applicable} not applicable, {to_compute} to compute".format(**facts)
    if made.todo:
        text += ": {forward:,.0f} forward and {backward:,.0f} backward passes".format(**facts)
        text += f", about {_duration(facts['seconds'])} on {facts['device']}"
    return text


def _facts(made: Plan, cells_take: dict[str, Prediction]) -> dict[str, Any]:
    """What is to be computed, as plain values: counts of cells, passes with those for maps, and predicted seconds."""
    todo = made.todo
    na = sum(bool(cell.not_applicable) for cell in made.cells)
    passes = made.total_passes
    return {
        "suite": made.suite.name,
        "subset": made.subset.name,
        "classifier": made.classifier.name,
        "device": str(made.classifier.device),
        "cells": len(made.cells),
        "stored": len(made.cells) - len(todo) - na,
        "not_applicable": na,
        "to_compute": len(todo),
        "forward": passes.forward,
        "backward": passes.backward,
        "seconds": round(sum(each.seconds for each in cells_take.values()), 1),
    }


def _rows(made: Plan) -> list[dict[str, Any]]:
    """One row a cell, as plain values; passes are those that it still needs, without stored maps."""
    rows = []
    for cell in made.cells:
        passes = made.passes(cell)
        rows.append(
            {
                "method": cell.method.spec,
                "metric": cell.metric.spec,
                "images": len(cell.ids),
                "parts": len(cell.parts),
                "stored_parts": 0 if cell.not_applicable else len(cell.parts) - len(cell.missing),
                "forward": passes.forward,
                "backward": passes.backward,
                "not_applicable": cell.not_applicable,
            }
        )
    return rows


def _not_applicable(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Why cells do not apply: a line for all that have one reason, methods that share it for the same metrics together."""
    metrics: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if row["not_applicable"]:
            metrics.setdefault((row["method"], row["not_applicable"]), {})[row["metric"]] = None
    every = {row["metric"] for row in rows}
    methods: dict[tuple[str, str], list[str]] = {}
    for (method, reason), own in metrics.items():
        methods.setdefault(("all metrics" if len(own) == len(every) else ", ".join(own), reason), []).append(method)
    return [f"{', '.join(names)} x {of}: {reason}" for (of, reason), names in methods.items()]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"

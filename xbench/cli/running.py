"""`xbench plan` and `xbench run`."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

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
    command_of,
    console,
    named,
    plan_of,
    stoppable,
    warn,
)
from xbench.errors import XbenchError

if TYPE_CHECKING:
    from xbench.run.cells import Plan
    from xbench.run.form import Choice


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
) -> None:
    """Shows what a run would compute: cells, classifier passes and predicted time; what is stored costs nothing."""
    from xbench.run.form import choose

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
    table = Table(title=f"{made.suite.title}: {made.subset.name} x {made.classifier.name}", title_justify="left")
    for title in ("method", "metric"):
        table.add_column(title, overflow="fold")
    for title in ("images", "stored parts", "forward", "backward"):
        table.add_column(title, justify="right")
    reasons: dict[str, None] = {}
    for cell in made.cells:
        passes = made.passes(cell)
        row = [
            f"{len(cell.ids)}",
            f"{len(cell.parts) - len(cell.missing)}/{len(cell.parts)}",
            f"{passes.forward:,.0f}",
            f"{passes.backward:,.0f}",
        ]
        if cell.not_applicable:
            reasons[f"{cell.metric.spec} x {cell.method.spec}: {cell.not_applicable}"] = None
            row = ["N/A", "", "", ""]
        table.add_row(escape(cell.method.spec), escape(cell.metric.spec), *row)
    console.print(table)
    console.print("Stored maps are made once for all metrics that read them; they count in the sum only.")
    for reason in reasons:
        console.print(f"N/A: {reason}", markup=False, highlight=False, soft_wrap=True)
    _print_summary(made, _speed(made, choose(made, only_look=True)))


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
    from xbench.run.form import choose
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
    speed = _speed(made, choose(made))
    _print_summary(made, speed)
    with stoppable(), Progress(made, speed, console) as progress:
        if engine is Engine.RAY:
            from xbench.run.ray_engine import run as run_on_ray

            results = run_on_ray(made, progress, share, timeout, address=address)
        else:
            results = run_plan(made, progress, share, timeout)
    command = command_of(suite, method, limit, dataset, classifier, images, settings, seed, precision)
    show_and_write(made, results, store / "boards", command)
    failed = [result for result in results if result.status == "failed"]
    for result in failed:
        warn(f"{result.metric} x {result.method} failed: {result.reason}")
    console.print(f"{len(results)} cells, {len(failed)} failed, {time.perf_counter() - start:.1f} s", highlight=False)
    if failed:
        where = store / "results"
        console.print(f"tracebacks: status.json below {where}; the next run tries these cells again", soft_wrap=True)
        raise typer.Exit(1)


def _speed(made: Plan, choice: Choice | None) -> tuple[float, float]:
    """Seconds of a pass, and of one with its backward pass, in the form that the run will have."""
    from xbench.run.machine import measured_speed

    return measured_speed(made.classifier, choice.seconds if choice else None) if made.todo else (0.0, 0.0)


def _share(shard: str | None) -> tuple[int, int]:
    """The numbers of ``i/n``; XbenchError unless 1 <= i <= n."""
    if shard is None:
        return 1, 1
    i, _, n = shard.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise XbenchError(f"--shard {shard!r}: write i/n with 1 <= i <= n, for instance 1/4, 2/4, 3/4, 4/4")
    return int(i), int(n)


def _print_summary(made: Plan, speed: tuple[float, float]) -> None:
    from xbench.run.progress import predicted_seconds

    todo = made.todo
    na = sum(bool(cell.not_applicable) for cell in made.cells)
    stored = len(made.cells) - len(todo) - na
    text = f"{made.suite.name}: {len(made.cells)} cells, {stored} stored, {na} not applicable, {len(todo)} to compute"
    if todo:
        seconds = sum(predicted_seconds(made, speed).values())
        passes = made.total_passes
        text += f": {passes.forward:,.0f} forward and {passes.backward:,.0f} backward passes"
        text += f", about {_duration(seconds)} on {made.classifier.device}"
    console.print(text, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"

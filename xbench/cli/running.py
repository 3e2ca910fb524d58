"""`xbench plan` and `xbench run`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.table import Table

from xbench.cli.common import (
    STORE,
    BatchOption,
    ClassifierOption,
    DatasetOption,
    DeviceOption,
    LimitOption,
    MethodsOption,
    SeedOption,
    StoreOption,
    SuiteOption,
    command_of,
    console,
    plan_of,
    stoppable,
    warn,
)

if TYPE_CHECKING:
    from xbench.run.plan import Plan


def plan(
    suite: SuiteOption,
    store: StoreOption = STORE,
    method: MethodsOption = None,
    limit: LimitOption = None,
    dataset: DatasetOption = None,
    classifier: ClassifierOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = None,
    seed: SeedOption = None,
) -> None:
    """Shows what a run would compute: cells, classifier passes and predicted time; what is stored costs nothing."""
    from xbench.run.plan import measured_speed

    made = plan_of(suite, store, method, limit, dataset, classifier, device, batch_size, seed=seed)
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
    _print_summary(made, measured_speed(made.classifier))


def run(
    suite: SuiteOption,
    store: StoreOption = STORE,
    method: MethodsOption = None,
    limit: LimitOption = None,
    dataset: DatasetOption = None,
    classifier: ClassifierOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = None,
    seed: SeedOption = None,
) -> None:
    """Runs a suite, or what is left of it, and shows its board. A run that was stopped or killed goes on where it was."""
    from xbench.cli.boards import show_and_write
    from xbench.run.plan import measured_speed
    from xbench.run.progress import Progress
    from xbench.run.runner import run as run_plan

    start = time.perf_counter()
    made = plan_of(suite, store, method, limit, dataset, classifier, device, batch_size, seed=seed)
    speed = measured_speed(made.classifier) if made.todo else (0.0, 0.0)
    _print_summary(made, speed)
    with stoppable(), Progress(made, speed, console) as progress:
        results = run_plan(made, progress)
    show_and_write(made, results, store / "boards", command_of(suite, method, limit, dataset, classifier, seed))
    failed = [result for result in results if result.status == "failed"]
    for result in failed:
        warn(f"{result.metric} x {result.method} failed: {result.reason}")
    console.print(f"{len(results)} cells, {len(failed)} failed, {time.perf_counter() - start:.1f} s", highlight=False)
    if failed:
        where = store / "results"
        console.print(f"tracebacks: status.json below {where}; the next run tries these cells again", soft_wrap=True)
        raise typer.Exit(1)


def _print_summary(made: Plan, speed: tuple[float, float]) -> None:
    from xbench.run.progress import predicted_seconds

    todo = made.todo
    na = sum(bool(cell.not_applicable) for cell in made.cells)
    stored = len(made.cells) - len(todo) - na
    text = f"{made.suite.name}: {len(made.cells)} cells, {stored} stored, {na} not applicable, {len(todo)} to compute"
    if todo:
        seconds = sum(predicted_seconds(made, speed).values())
        passes = sum(map(made.passes, todo), made.map_passes(todo))
        text += f": {passes.forward:,.0f} forward and {passes.backward:,.0f} backward passes"
        text += f", about {_duration(seconds)} on {made.classifier.device}"
    console.print(text, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"

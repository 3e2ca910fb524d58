"""Progress of a run: a bar with a remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import rich.progress
from rich.console import Console

from xbench.run.cells import Cell, Plan
from xbench.run.machine import Speed
from xbench.run.prediction import predicted

if TYPE_CHECKING:
    from collections.abc import Iterable

ELSEWHERE = "stored by another run"


class Progress:
    """Follows a run by the classifier's own pass counters, weighted by the measured speed of a pass.

    Use as a context manager. ``finish`` is called with the outcome of every part: done, failed, n/a or who else stored it.
    """

    def __init__(self, plan: Plan, speed: Speed, console: Console) -> None:
        self.plan = plan
        self.speed = speed
        self.console = console
        self.predicted = predicted(plan, speed)
        self._total = max(sum(each.seconds for each in self.predicted.values()), 1e-9)
        self._finished = 0.0
        self._left = {cell.key: set(cell.missing) for cell in plan.todo}
        self._took = dict.fromkeys(self._left, 0.0)
        self._done = 0
        self._cell: Cell | None = None
        self._bar: _Bar | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal and self.plan.todo:
            self._bar = _Bar(self, self.console)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, cell: Cell) -> None:
        """A part of a cell begins."""
        self._cell, self._began = cell, time.perf_counter()
        self._passes = self.plan.classifier.passes.copy()

    def finish(self, cell: Cell, index: int, outcome: str) -> None:
        """A part of a cell ended; a line says so when it was the cell's last, or when it brings the cell to its end."""
        left = self._left[cell.key]
        if index not in left:
            return
        if cell is self._cell:
            self._took[cell.key] += time.perf_counter() - self._began
            self._cell = None
        gone = {index} if outcome in ("done", ELSEWHERE) else set(left)
        self._finished += self.predicted[cell.key].seconds * len(gone) / len(cell.missing)
        left -= gone
        if left:
            return
        self._done += 1
        name, took = f"{cell.metric.spec} x {cell.method.spec}", self._took[cell.key]
        line = f"[{self._done}/{len(self._left)}] {name}: {outcome} in {took:.1f} s"
        if self._bar is None:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif outcome != "done":
            self._bar.console.print(line, markup=False, highlight=False)

    def fraction(self) -> float:
        """The share of the predicted work that is done, the part in progress included."""
        current = 0.0
        if self._cell is not None:
            used = self.speed.seconds(self.plan.classifier.passes - self._passes)
            foretold, parts = self.predicted[self._cell.key], len(self._cell.missing)
            current = min(1.0, used * parts / max(foretold.passes, 1e-9)) * foretold.seconds / parts
        return min(1.0, (self._finished + current) / self._total)

    def title(self) -> str:
        """What is being computed now."""
        cell = self._cell
        return "waiting" if cell is None else f"{cell.metric.name} x {cell.method.spec}"


class _Bar(rich.progress.Progress):
    """A bar that asks for the fraction whenever it is drawn (by its own thread), so that no hot loop reports to it."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        super().__init__(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            rich.progress.TextColumn("{task.fields[cells]} cells"),
            rich.progress.TextColumn("ETA"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            speed_estimate_period=120,
            refresh_per_second=2,
            transient=True,
        )
        self.add_task("starting", total=1.0, cells="")

    def get_renderables(self) -> Iterable[Any]:
        progress = self._progress
        cells = f"{progress._done}/{len(progress._left)}"
        for task in self.task_ids:  # none yet when the base class draws for the first time
            self.update(task, completed=progress.fraction(), description=progress.title()[:40], cells=cells)
        return super().get_renderables()

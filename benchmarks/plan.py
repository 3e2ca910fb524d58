"""How well `xbench plan` foresees the time of a run, and what of that time is not passes: suites in fresh stores.

``python benchmarks/plan.py [SUITE[:IMAGES] ...] [--method METHOD ...]`` prints, a suite a row, the predicted seconds,
those that the run's process was computing, the ratio of the two, the seconds on the clock, and those of the same run again,
which finds everything stored; then the same by metric and the methods that take most beyond what was predicted. What other
programs take makes a clock late, not the prediction wrong: on a machine of one's own the two measured ones agree.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from xbench.run.cells import Cell, Plan
from xbench.run.form import planned_speed
from xbench.run.plan import make_plan
from xbench.run.progress import Progress
from xbench.run.runner import run
from xbench.run.settings import changed
from xbench.run.suite import load_suite
from xbench.store import Store

MOST = 8
"""How many methods are listed."""


class Timed(Progress):
    """Counts the seconds that the process computes for each cell."""

    used: Counter[str]

    def start(self, cell: Cell) -> None:
        """See `Progress`."""
        super().start(cell)
        self.since = time.process_time()

    def finish(self, cell: Cell, index: int, outcome: str) -> None:
        """See `Progress`."""
        self.used[cell.key] += time.process_time() - self.since
        super().finish(cell, index, outcome)


def computed(plan: Plan) -> tuple[Timed, float, float]:
    """Runs a plan: its progress, and the seconds of the processor and of the clock after the prediction."""
    progress = Timed(plan, planned_speed(plan), Console(file=io.StringIO()))
    progress.used = Counter()
    start, used = time.perf_counter(), time.process_time()
    failed = [f"{each.metric} x {each.method}: {each.reason}" for each in run(plan, progress) if each.status == "failed"]
    if failed:
        sys.exit("\n".join(failed))
    return progress, time.process_time() - used, time.perf_counter() - start


def parts(progress: Timed, name: Callable[[Cell], str]) -> list[tuple[str, float, float]]:
    """Predicted and taken seconds of the cells of the same name; what took longest beyond the prediction first."""
    predicted, taken = Counter[str](), Counter[str]()
    for cell in progress.plan.todo:
        predicted[name(cell)] += progress.predicted[cell.key].seconds
        taken[name(cell)] += progress.used[cell.key]
    return sorted(((key, predicted[key], taken[key]) for key in taken), key=lambda row: row[1] - row[2])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", default=["smoke", "robustness", "sanity", "faithfulness", "full"])
    parser.add_argument("--method", action="append", default=[])
    options = parser.parse_args()
    head = "| suite | predicted, s | processor, s | predicted / processor | clock, s | again, s |"
    print(f"{head}\n|{' --- |' * head.count(' | ')} --- |")
    details = []
    for word in options.suites:
        name, _, images = word.partition(":")
        suite = changed(load_suite(name), (), int(images) if images else None)
        with tempfile.TemporaryDirectory() as folder:
            progress, used, clock = computed(make_plan(suite, Store(Path(folder)), methods=options.method))
            start = time.perf_counter()
            computed(make_plan(suite, Store(Path(folder)), methods=options.method))
            again = time.perf_counter() - start
        foretold = sum(each.seconds for each in progress.predicted.values())
        print(f"| {word} | {foretold:.1f} | {used:.1f} | {foretold / used:.2f} | {clock:.1f} | {again:.1f} |", flush=True)
        details += [(word, *row) for row in parts(progress, lambda cell: cell.metric.spec)]
        details += [(word, *row) for row in parts(progress, lambda cell: cell.method.spec)[:MOST]]
    print("\n| suite | what | predicted, s | processor, s | predicted / processor |\n| --- | --- | --- | --- | --- |")
    for word, what, foretold, used in details:
        print(f"| {word} | `{what}` | {foretold:.1f} | {used:.1f} | {foretold / used:.2f} |")


if __name__ == "__main__":
    main()

"""How many classifier passes metrics save by sharing the answers that they need: a suite together, and its metrics apart.

``python benchmarks/sharing.py [--suite faithfulness] [--methods gradient,intensity,random] [--limit 20]`` plans and runs

- the suite in one store,
- every metric in a store of its own, on all methods,
- every metric on every method in a store of its own: what each needs by itself, its ``cost`` times the images,

and prints the passes of each by the plan and by the classifier's counters, those for the maps left out. The exit status is 1 if
plan and counters differ, or if the suite together takes more than 80 % of its metrics on their own.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from xbench.classifier import Passes
from xbench.run.machine import Speed
from xbench.run.plan import make_plan
from xbench.run.progress import Progress
from xbench.run.runner import run
from xbench.run.settings import split_outside
from xbench.run.suite import MetricRun, Suite, load_suite
from xbench.store import Store

MOST = 0.8


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="faithfulness")
    parser.add_argument("--methods", default="gradient,intensity,random")
    parser.add_argument("--limit", type=int, default=20)
    given = parser.parse_args()
    suite, methods = load_suite(given.suite), [spec.strip() for spec in split_outside(given.methods, ",")]
    together = passes(suite, suite.metrics, methods, given.limit)
    metrics = total(passes(suite, [metric], methods, given.limit) for metric in suite.metrics)
    pairs = itertools.product(suite.metrics, methods)
    cells = total(passes(suite, [metric], [method], given.limit) for metric, method in pairs)
    print(f"{suite.name}: {len(suite.metrics)} metrics, {', '.join(methods)}, {given.limit} images\n")
    print("| passes without those for maps | plan | counted | together, of it |\n| --- | --- | --- | --- |")
    for name, (planned, counted) in {
        "together, in one store": together,
        "every metric in a store of its own": metrics,
        "every metric on every method in a store of its own": cells,
    }.items():
        print(f"| {name} | {planned:,.0f} | {counted:,.0f} | {together[1] / counted:.1%} |")
    if any(planned != counted for planned, counted in (together, metrics, cells)):
        sys.exit("plan and counters differ")
    if together[1] > MOST * cells[1]:
        sys.exit(f"together more than {MOST:.0%} of every metric on every method by itself")


def passes(suite: Suite, metrics: Sequence[MetricRun], methods: Sequence[str], limit: int) -> tuple[float, float]:
    """Passes of a run in a fresh store, planned and counted, without those for the maps."""
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(suite.model_copy(update={"metrics": list(metrics)}), Store(Path(folder)), methods=methods, limit=limit)
        maps, before = sum(plan.map_passes(plan.todo), Passes()).total, plan.classifier.passes.copy()
        planned = sum(plan.passes(cell).total for cell in plan.todo)
        with Progress(plan, Speed(), Console(quiet=True)) as progress:
            results = run(plan, progress)
        assert all(result.status == "ok" for result in results)
        return planned, (plan.classifier.passes - before).total - maps


def total(runs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The sums of both numbers."""
    planned, counted = zip(*runs, strict=True)
    return sum(planned), sum(counted)


if __name__ == "__main__":
    main()

"""What a run costs beside computing: 1 000 methods x 100 metrics that do nothing, planned, claimed, stored and collected.

``python benchmarks/scheduler.py [--methods 1000] [--metrics 100]`` prints seconds and memory. It
writes one file and one folder a cell below ``TMPDIR``.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from xbench import METHODS, METRICS, Column, Method, Metric, Passes, Scored
from xbench.run.machine import Speed
from xbench.run.plan import make_plan
from xbench.run.progress import Progress
from xbench.run.runner import run
from xbench.run.suite import MetricRun, Suite
from xbench.store import Store


@METHODS.register("no-op")
@dataclasses.dataclass(frozen=True)
class NoMethod(Method):
    """Nothing (own decision)."""

    number: int = 0

    def __call__(self, classifier, x, y, rng):  # type: ignore[no-untyped-def]
        """Maps of zeros."""
        return torch.zeros_like(x[:, 0])

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """No pass."""
        return Passes()


@METRICS.register("no-op")
@dataclasses.dataclass(frozen=True)
class NoMetric(Metric):
    """Nothing (own decision)."""

    number: int = 0
    columns = (Column("zero", "Zero", None),)
    uses_maps = False

    def __call__(self, explainer, batch, maps):  # type: ignore[no-untyped-def]
        """Zeros."""
        return Scored({"zero": torch.zeros(len(batch))})

    def cost(self, method, classifier):  # type: ignore[no-untyped-def]
        """No pass."""
        return Passes()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", type=int, default=1000)
    parser.add_argument("--metrics", type=int, default=100)
    sizes = parser.parse_args()
    suite = no_op(sizes.methods, sizes.metrics)
    print(f"{sizes.methods * sizes.metrics} cells of {sizes.methods} methods")
    with tempfile.TemporaryDirectory() as folder:
        make_plan(no_op(1, 1), Store(Path(folder) / "imports"))  # so that imports are not counted
        before = memory()
        for name in ("first run", "second run, everything stored"):
            plan = results = None  # the first run's, so that the second one's memory is its own
            start = now()
            plan = make_plan(suite, Store(Path(folder) / "store"))
            planned = now()
            with Progress(plan, Speed(), Console(quiet=True)) as progress:
                results = run(plan, progress)
            end = now()
            assert len(results) == sizes.methods * sizes.metrics
            assert all(result.status == "ok" for result in results)
            print(f"{name}: plan {between(start, planned)}, run and collect {between(planned, end)}", flush=True)
        print(f"memory above that of the imports: {memory() - before:.0f} MiB at most", flush=True)


def no_op(methods: int, metrics: int) -> Suite:
    """A suite of methods x metrics that do nothing."""
    return Suite(
        name="no-op",
        title="No-op",
        description="Nothing.",
        dataset="mnist",
        classifier="mnist-cnn",
        methods=[f"no-op(number={i})" for i in range(methods)],
        metrics=[MetricRun(spec=f"no-op(number={i})", images=1) for i in range(metrics)],
    )


def now() -> tuple[float, float]:
    """Seconds by the clock, and those that this process has computed."""
    return time.perf_counter(), time.process_time()


def between(start: tuple[float, float], end: tuple[float, float]) -> str:
    """What passed between two moments."""
    return f"{end[0] - start[0]:.1f} s ({end[1] - start[1]:.1f} s of CPU)"


def memory() -> float:
    """The largest memory that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()

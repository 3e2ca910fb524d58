"""How much of the stability metric's time goes into Bayesian optimisation: python benchmarks/stability.py [SUITE].

Runs the metric `stability` as the suite has it on every method of the suite, and prints per method, and in all, the seconds
spent in the Gaussian processes and those spent explaining, as the results record them. Controls are left out: they are not
searched.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

from xbench.run.machine import measured_speed
from xbench.run.plan import make_plan
from xbench.run.progress import Progress
from xbench.run.runner import run
from xbench.run.suite import load_suite
from xbench.store import Store


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", default="robustness", help="a suite with the metric stability; default: robustness")
    parser.add_argument("-m", "--method", action="append", default=[], help="only this method; may be repeated")
    parser.add_argument("--store", type=Path, help="folder of results, read where they are there; temporary by default")
    options = parser.parse_args()
    suite = load_suite(options.suite)
    metrics = [metric for metric in suite.metrics if metric.spec.startswith("stability")]
    with tempfile.TemporaryDirectory() as temporary:
        plan = make_plan(
            suite.model_copy(update={"metrics": metrics}), Store(options.store or Path(temporary)), methods=options.method
        )
        with Progress(plan, measured_speed(plan.classifier), Console(stderr=True)) as progress:
            results = run(plan, progress)
    times = {
        result.method: [result.record["metric"][f"seconds_{what}"] for what in ("gp", "explaining")]
        for result in results
        if result.status == "ok" and not result.control
    }
    if not times:
        raise SystemExit("no method was searched")
    print(f"{metrics[0].spec}, {metrics[0].images or len(plan.subset)} images of {plan.subset.name}\n")
    print("| method | Gaussian processes, s | explaining, s | share |")
    print("| --- | --- | --- | --- |")
    rows = sorted(times.items(), key=lambda row: row[1][0] / sum(row[1]), reverse=True)
    rows.append(("all", [sum(values) for values in zip(*times.values(), strict=True)]))
    for method, (gp, explaining) in rows:
        print(f"| {method} | {gp:.2f} | {explaining:.2f} | {gp / (gp + explaining):.1%} |")


if __name__ == "__main__":
    main()

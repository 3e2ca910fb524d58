"""How well `xbench plan` foresees the time of a run: parts of the shipped suites on the embedded digits, in fresh stores.

``python benchmarks/plan.py [SUITE:IMAGES ...]`` prints, a suite a row, the predicted seconds, those that the run's process was
computing, those on the clock, and the ratio of the first two. What other programs take makes a clock late, not the prediction
wrong: on a machine of one's own the two measured ones agree.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from xbench.run.form import choose
from xbench.run.machine import measured_speed
from xbench.run.plan import make_plan
from xbench.run.progress import Progress, predicted_seconds
from xbench.run.runner import run
from xbench.run.settings import changed
from xbench.run.suite import load_suite
from xbench.store import Store

METHODS = ("gradient", "smoothgrad", "sliding-patch", "rise(masks=200)", "gradcam", "random")


def measure(name: str, images: int | None, methods: tuple[str, ...]) -> tuple[float, float, float]:
    """Predicted seconds, seconds of processor, seconds of the clock."""
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(changed(load_suite(name), (), images), Store(Path(folder)), methods=methods)
        choice = choose(plan)
        speed = measured_speed(plan.classifier, choice.seconds if choice else None)
        predicted = sum(predicted_seconds(plan, speed).values())
        start, used = time.perf_counter(), time.process_time()
        results = run(plan, Progress(plan, speed, Console(file=io.StringIO())))
        used, taken = time.process_time() - used, time.perf_counter() - start
        failed = [f"{result.metric} x {result.method}: {result.reason}" for result in results if result.status == "failed"]
        if failed:
            sys.exit("\n".join(failed))
    return predicted, used, taken


def main() -> None:
    """Prints the table."""
    print("| suite | predicted, s | processor, s | clock, s | predicted / processor |\n| --- | --- | --- | --- | --- |")
    for word in sys.argv[1:] or ["smoke", "faithfulness:20", "robustness:4"]:
        name, _, images = word.partition(":")
        predicted, used, taken = measure(name, int(images) if images else None, () if name == "smoke" else METHODS)
        print(f"| {word} | {predicted:.1f} | {used:.1f} | {taken:.1f} | {predicted / used:.2f} |", flush=True)


if __name__ == "__main__":
    main()

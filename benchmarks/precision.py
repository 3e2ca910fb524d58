"""What bf16 changes: the scores and ranks of a few methods under every metric of some suites, in fp32 and in bf16.

``python benchmarks/precision.py [--images 10] [--suite faithfulness ...] [--method METHOD ...]`` prints, a row a ranked column:
how far an image's score moves (median and largest over images and methods) and how far a method's mean moves at most, all as a
share of the scores' standard deviation in fp32; of how many methods the rank is another; Kendall's tau of the two rankings, nan
where all methods tie.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.stats import kendalltau, rankdata

from xbench import Result
from xbench.run.machine import Speed
from xbench.run.plan import make_plan
from xbench.run.progress import Progress
from xbench.run.runner import run
from xbench.run.settings import changed
from xbench.run.suite import load_suite
from xbench.store import Store
from xbench.types import Precision

METHODS = ["gradient", "smoothgrad", "sliding-patch", "rise(masks=200)", "gradcam", "random"]


def results(name: str, images: int, methods: list[str], precision: Precision) -> list[Result]:
    """A suite's results, computed in a store of their own."""
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(changed(load_suite(name), (), images), Store(Path(folder)), methods=methods, precision=precision)
        return run(plan, Progress(plan, Speed(), Console(file=io.StringIO())))


def rows(exact: list[Result], rounded: list[Result]) -> list[str]:
    """A row for every ranked column that at least two methods have."""
    lines = []
    for metric in dict.fromkeys(result.metric for result in exact):
        pairs = [(a, b) for a, b in zip(exact, rounded, strict=True) if a.metric == metric and a.status == b.status == "ok"]
        for column in pairs[0][0].columns if len(pairs) > 1 else ():
            if column.higher_is_better is None:
                continue
            one, two = (np.array([pair[i].scores[column.name] for pair in pairs], dtype=float) for i in (0, 1))
            if np.isnan(one).all():  # what needs a file that is not there
                continue
            change = np.abs(two - one)
            spread = float(np.nanstd(one)) or 1.0
            means = [np.nanmean(values, 1) for values in (one, two)]
            ranks = [rankdata(values) for values in means]
            moved = int((ranks[0] != ranks[1]).sum())
            tau = kendalltau(*means).statistic
            values = [np.nanmedian(change) / spread, np.nanmax(change) / spread, np.abs(means[1] - means[0]).max() / spread]
            lines.append(
                f"| {metric} | {column.title} | "
                + " | ".join(f"{value:.4f}" for value in values)
                + f" | {moved} of {len(pairs)} | {tau:.2f} |"
            )
    return lines


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--suite", action="append")
    parser.add_argument("--method", action="append")
    options = parser.parse_args()
    print("| metric | column | image, median | image, largest | mean, largest | ranks that differ | Kendall's tau |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in options.suite or ["full"]:
        exact, rounded = (results(name, options.images, options.method or METHODS, precision) for precision in ("fp32", "bf16"))
        print("\n".join(rows(exact, rounded)), flush=True)


if __name__ == "__main__":
    main()

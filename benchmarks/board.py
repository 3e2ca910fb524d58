"""How long a large board takes: made-up scores of many methods, metrics and images, and every file of their board.

python benchmarks/board.py
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from xbench.board import make_board, write
from xbench.metric import Column
from xbench.result import Result

CONTROLS = ("random", "centre", "edges", "intensity")


def results(methods: int, metrics: int, images: int) -> list[Result]:
    """Scores that tell some methods apart, of metrics with one column each and a curve for every fifth."""
    random = np.random.default_rng(0)
    names = [f"method-{i:03d}" for i in range(methods - len(CONTROLS))] + list(CONTROLS)
    ids = [f"{i:05d}" for i in range(images)]
    quality = random.normal(0, 0.5, (metrics, methods))
    made = []
    for metric in range(metrics):
        difficulty = random.normal(0, 1, images)
        columns = (Column("score", f"Score {metric}", metric % 2 == 0),)
        for i, name in enumerate(names):
            values = difficulty + random.normal(quality[metric, i], 1, images)
            curve = {"probability": np.sort(random.random((images, 29)), 1).tolist()} if metric % 5 == 0 else {}
            made.append(
                Result(
                    key=f"{metric}-{i}",
                    subset="images",
                    classifier="classifier",
                    method=name,
                    metric=f"metric-{metric:02d}",
                    columns=columns,
                    status="ok",
                    control=name in CONTROLS,
                    ids=ids,
                    scores={"score": values.tolist()},
                    curves=curve,
                    curve_axis=("share", 0, 1) if curve else None,
                    map_passes=float(i),
                )
            )
    return made


def main() -> None:
    """Prints the seconds of the board and its files, and the peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("methods", 100), ("metrics", 30), ("images", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    made = results(given.methods, given.metrics, given.images)
    start, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        paths = write(make_board(made, "Large"), Path(folder), "large")
        largest = max(paths, key=lambda path: path.stat().st_size)
        size = f"largest file {largest.name}, {largest.stat().st_size / 1e6:.0f} MB"
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{given.methods} methods x {given.metrics} metrics x {given.images} images: {seconds:.0f} s, {cpu:.0f} s of processor"
    )
    print(f"peak memory {memory:.0f} MB, {size}")


if __name__ == "__main__":
    main()

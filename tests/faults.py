"""What the fault tests share, and at length as a program: runs that are killed, and what a store holds.

``python tests/faults.py --kills 100`` kills a run at 100 random moments and prints what came of it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from xbench.board import make_board, write
from xbench.run.cells import Plan
from xbench.run.machine import Speed
from xbench.run.plan import make_plan
from xbench.run.progress import Progress
from xbench.run.runner import run
from xbench.run.suite import load_suite
from xbench.store import Store

SUITE = """
title = "Faults"
description = "A suite of all kinds of work: stored maps, maps at other sizes, a search, refitted networks."
dataset = "mnist"
classifier = "mnist-cnn"
methods = ["gradient", "random", "mp(iterations=20)", "rise(masks=100)", "nvp"]
[[metrics]]
spec = "deletion"
images = {images}
[[metrics]]
spec = "consistency"
images = {fewer}
[[metrics]]
spec = "stability(random_calls=2, calls=2)"
images = {fewest}
"""
LONG = """
title = "Long"
description = "A quick cell, then one that takes hours."
dataset = "mnist"
classifier = "mnist-cnn"
methods = {methods}
[[metrics]]
spec = "deletion"
images = 10
{metric}
"""
QUICK = LONG.format(methods='["gradient"]', metric="")
LONG_KINDS = {
    "a long method": LONG.format(methods='["gradient", "mp(iterations=10000000)"]', metric=""),
    "a long metric": LONG.format(
        methods='["gradient"]', metric='[[metrics]]\nspec = "stability(random_calls=1000000)"\nimages = 10'
    ),
}
TIMES = ("record", "sha256", "seconds", "passes")
"""What depends on when and where a part was computed, and on what was stored before."""


def suite_file(folder: Path, images: int = 60) -> Path:
    """A suite whose metrics take different numbers of images, none of them whole parts."""
    path = folder / "faults.toml"
    path.write_text(SUITE.format(images=images, fewer=images // 2, fewest=images // 10))
    return path


def quiet(plan: Plan) -> Progress:
    """The progress of a run that shows nothing."""
    return Progress(plan, Speed(1e-4, 1e-4), Console(quiet=True))


def complete(suite: Path, store: Path, report: Callable[[str], None] = print) -> None:
    """Runs the suite in this process and writes its board."""
    plan = make_plan(load_suite(str(suite)), Store(store, report))
    with quiet(plan) as progress:
        results = run(plan, progress)
    write(make_board(results, plan.suite.title), store / "boards", plan.suite.name)


def in_child(call: Callable[[], None]) -> int:
    """The process that runs ``call``: a copy of this one, so that nothing is imported again."""
    child = os.fork()
    if child == 0:
        try:
            call()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    return child


def content(store: Path) -> dict[str, Any]:
    """All that a store and its boards hold, times and machine aside; maps byte by byte."""
    found: dict[str, Any] = {}
    for path in sorted(store.rglob("[!.]*")):
        name = str(path.relative_to(store))
        if path.is_dir() or name.startswith("claims/"):
            continue
        if path.suffix == ".json" and path.name != "form.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}
        else:
            found[name] = path.read_bytes()
    return found


def parts(store: Path) -> dict[str, int]:
    """The stored parts and when they were written."""
    return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.rglob("part-*.json")}


def kill_and_resume(suite: Path, store: Path, kills: int, longest: float, seed: int = 0) -> int:
    """Kills a run of the suite at random moments until it has been killed ``kills`` times or is done, then completes it.

    Returns the number of kills. AssertionError if a part that was stored is written again.
    """
    moments = random.Random(seed)
    killed = 0
    while killed < kills:
        before = parts(store)
        child = in_child(lambda: complete(suite, store))
        time.sleep(moments.uniform(0, longest))
        done, _ = os.waitpid(child, os.WNOHANG)
        if done:
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
        after = parts(store)
        assert {name: after.get(name) for name in before} == before, "a finished part was computed again"
    before = parts(store)
    complete(suite, store)
    after = parts(store)
    assert {name: after.get(name) for name in before} == before, "a finished part was computed again"
    return killed


def interrupted(suite: Path, store: Path, engine: str = "local") -> tuple[float, int, str]:
    """Ctrl-C in the middle of the second cell of a real run: seconds until its process has ended, exit status, output."""
    command = [sys.executable, "-m", "xbench", "run", "--suite", str(suite), "--store", str(store), "--engine", engine]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"},
        start_new_session=True,
        # Where a shell started this in the background, SIGINT is ignored, and children inherit that.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not (parts(store) and list((store / "claims").glob("*.claim"))):
        time.sleep(0.05)
    time.sleep(1)
    start = time.perf_counter()
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes in the foreground
    process.wait(timeout=120)
    seconds = time.perf_counter() - start
    return seconds, process.returncode, process.communicate()[0]


def main() -> None:
    """Kills runs on fresh stores until there were enough kills, and compares every store with an uninterrupted run's.

    Before, a run is stopped by Ctrl-C, in a long method and in a long metric, with both engines.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--longest", type=float, default=3.0, help="seconds that a run lives at most")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i, (kind, text) in enumerate(LONG_KINDS.items()):
            for engine in ("local", "ray"):
                long = folder / f"long-{i}.toml"
                long.write_text(text)
                seconds, status, _ = interrupted(long, folder / f"long-{i}-{engine}", engine)
                print(f"Ctrl-C in {kind}, engine {engine}: exit status {status} after {seconds:.2f} s", flush=True)
        suite = suite_file(folder)
        complete(suite, folder / "whole")
        expected = content(folder / "whole")
        killed = stores = 0
        while killed < arguments.kills:
            store = folder / f"store-{stores}"
            store.mkdir()
            now = kill_and_resume(suite, store, arguments.kills - killed, arguments.longest, seed=stores)
            if content(store) != expected:
                sys.exit(f"store {stores}, killed {now} times, differs from the uninterrupted run's")
            killed, stores = killed + now, stores + 1
            print(f"{killed} kills, {stores} stores, all equal to the uninterrupted run's", flush=True)
    print(f"{killed} kills over {stores} stores: every store and board byte-identical (times and machine aside), no part twice")


if __name__ == "__main__":
    main()

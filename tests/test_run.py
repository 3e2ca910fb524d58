"""The runner: stored once, resumed after a kill, failing cells kept apart, a method in one file."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT, Outcome
from rich.console import Console

from xbench.run.machine import Speed
from xbench.run.plan import make_plan
from xbench.run.progress import Progress
from xbench.run.runner import run
from xbench.run.suite import load_suite
from xbench.store import Store

SUITE = """
title = "Test"
description = "A small suite."
dataset = "mnist"
classifier = "mnist-cnn"
methods = {methods}
[[metrics]]
spec = "deletion"
images = {images}
[[metrics]]
spec = "consistency"
images = {images}
draws = {{ count = 2, size = 3 }}
"""
BROKEN = '''
import dataclasses
import torch
from xbench import METHODS, Method, Passes

@METHODS.register("{name}")
@dataclasses.dataclass(frozen=True)
class Broken(Method):
    """Broken on purpose."""
    def __call__(self, classifier, x, y, rng):
        {body}
    def cost(self, shape):
        return Passes()
'''
BODIES = {
    "raises": ('raise RuntimeError("no luck")', "RuntimeError: no luck"),
    "wrong-shape": ("return torch.zeros(len(x), 3, 3)", "returned maps of shape (6, 3, 3), expected (6, 28, 28) (b, h, w)"),
    "gives-nan": ("return torch.full_like(x[:, 0], float('nan'))", "returned NaN or infinite values in 6 of 6 maps"),
}


def write_suite(folder: Path, methods: list[str], images: int = 6) -> Path:
    path = folder / "mine.toml"
    path.write_text(SUITE.format(methods=json.dumps(methods), images=images))
    return path


def parts(store: Path) -> dict[str, int]:
    """Every stored part with the time it was written."""
    return {str(p.relative_to(store)): p.stat().st_mtime_ns for p in sorted((store / "results").rglob("part-*.json"))}


def board_files(store: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((store / "boards").iterdir())}


def call(*words: str | Path, path: Path | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with ``path`` as XBENCH_PATH."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XBENCH_PATH": str(path or ""), "COLUMNS": "200"}
    command = [sys.executable, "-m", "xbench", *map(str, words)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_a_run_prints_a_board_writes_files_and_computes_nothing_twice(xbench: Callable[..., Outcome], tmp_path: Path) -> None:
    suite, store = write_suite(tmp_path, ["gradient", "random", "rise(masks=20)"]), tmp_path / "store"
    first = xbench("run", "--suite", suite, "--store", store)
    assert first.status == 0, first.err
    assert "rise(masks=20)" in first.out
    assert str(store / "boards" / "mine.md") in first.out
    written = parts(store)
    assert len(written) == 4, "3 deletions and 1 consistency; gradient and random have no mask grid"
    files = board_files(store)
    assert {"mine.md", "mine.csv", "mine-images.csv"} < set(files)
    again = xbench("run", "--suite", suite, "--store", store)
    assert "0 to compute" in again.out
    assert parts(store) == written
    assert board_files(store) == files
    values = pd.read_csv(store / "boards" / "mine-images.csv")
    assert values.groupby(["method", "metric"]).image.nunique().eq(6).all()


def test_a_damaged_part_is_computed_again_and_no_other(xbench: Callable[..., Outcome], tmp_path: Path) -> None:
    suite, store = write_suite(tmp_path, ["edges"], images=120), tmp_path / "store"
    assert xbench("run", "--suite", suite, "--store", store).status == 0
    before, files = parts(store), board_files(store)
    damaged = next(name for name in before if name.endswith("part-001.json"))
    (store / damaged).write_text((store / damaged).read_text().replace("0.", "1.", 1))
    again = xbench("run", "--suite", suite, "--store", store)
    assert "is damaged" in again.err
    after = parts(store)
    assert {name for name in before if after[name] != before[name]} == {damaged}
    assert board_files(store) == files


def test_two_runs_with_one_seed_are_identical(xbench: Callable[..., Outcome], tmp_path: Path) -> None:
    suite = write_suite(tmp_path, ["random", "rise(masks=20)", "mp(iterations=3)"])
    for name in ("a", "b"):
        assert xbench("run", "--suite", suite, "--store", tmp_path / name).status == 0
    assert board_files(tmp_path / "a") == board_files(tmp_path / "b")


def test_batch_sizes_agree(xbench: Callable[..., Outcome], tmp_path: Path) -> None:
    suite = write_suite(tmp_path, ["gradient", "rise(masks=20)"])
    values = []
    for size in (1, 7, 64):
        store = tmp_path / str(size)
        assert xbench("run", "--suite", suite, "--store", store, "--batch-size", size).status == 0
        values.append(pd.read_csv(store / "boards" / "mine-images.csv").value)
    for other in values[1:]:
        # The file has 6 significant digits, and PSNR values are of the order of 10.
        assert (other - values[0]).abs().max() < 1e-4


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_scores_of_the_cpu(xbench: Callable[..., Outcome], tmp_path: Path) -> None:
    suite = write_suite(tmp_path, ["gradient", "rise(masks=20)", "vp", "edges"])
    values = []
    for device in ("cpu", "cuda"):
        done = xbench("run", "--suite", suite, "--store", tmp_path / device, "--device", device)
        assert done.status == 0, done.err
        values.append(pd.read_csv(tmp_path / device / "boards" / "mine-images.csv").value)
    assert (values[1] - values[0]).abs().max() < 1e-2


@pytest.mark.parametrize("name", BODIES)
def test_a_failing_method_is_a_hole_on_the_board_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    (tmp_path / "own" / "methods").mkdir(parents=True)
    body, message = BODIES[name]
    (tmp_path / "own" / "methods" / "broken_one.py").write_text(BROKEN.format(name=name, body=body))
    suite, store = write_suite(tmp_path, [name, "gradient"]), tmp_path / "store"
    done = call("run", "--suite", suite, "--store", store, path=tmp_path / "own")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "failed" in (store / "boards" / "mine.md").read_text()
    assert len(parts(store)) == 1, "gradient's deletion is done"
    (status,) = (store / "results").rglob("status.json")
    assert "Traceback" in json.loads(status.read_text())["traceback"]


def test_a_terminal_shows_a_bar_with_the_remaining_time(tmp_path: Path) -> None:
    plan = make_plan(load_suite(str(write_suite(tmp_path, ["gradient", "rise(masks=20)"]))), Store(tmp_path / "store"))
    console = Console(force_terminal=True, file=io.StringIO(), width=120)
    with Progress(plan, Speed(1e-4, 1e-4), console) as progress:
        assert progress.fraction() == 0
        results = run(plan, progress)
        assert progress.fraction() == 1
    assert [result.status for result in results] == ["ok", "n/a", "ok", "ok"]
    assert "ETA" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "3/3 cells" in console.file.getvalue()  # type: ignore[attr-defined]


def test_ctrl_c_ends_in_a_line_and_leaves_a_store_to_go_on_with(tmp_path: Path) -> None:
    suite, store = write_suite(tmp_path, ["gradient", "mp(iterations=100000)"]), tmp_path / "store"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "xbench", "run", "--suite", str(suite), "--store", str(store)]
    # Where a shell started the tests in the background, SIGINT is ignored, and children inherit that.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=heard)
    while process.poll() is None and not list(store.rglob("part-*.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert call("run", "--suite", suite, "--store", store, "-m", "gradient").returncode == 0


def test_a_killed_run_goes_on_and_ends_with_the_same_board(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, ["gradient", "random", "mp(iterations=30)", "rise(masks=200)", "sliding-patch"], images=100)
    assert call("run", "--suite", suite, "--store", tmp_path / "whole").returncode == 0
    store = tmp_path / "killed"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "xbench", "run", "--suite", str(suite), "--store", str(store)]
    for wanted in (1, 4):
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(store.rglob("part-*.json"))) < wanted:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = parts(store)
    assert 4 <= len(before) < len(parts(tmp_path / "whole")), "killed in the middle"
    assert call("run", "--suite", suite, "--store", store).returncode == 0
    after = parts(store)
    assert {name: after[name] for name in before} == before, "no finished part is computed again"
    assert board_files(store) == board_files(tmp_path / "whole")


def test_the_method_in_the_readme_is_one_file(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(# methods/[^\n]*\n.*?)```", readme, re.DOTALL)
    file = code.splitlines()[0].removeprefix("# ").strip()
    name = re.search(r'register\("([^"]+)"\)', code)[1]  # type: ignore[index]
    own = tmp_path / "own"
    (own / file).parent.mkdir(parents=True)
    (own / file).write_text(code)
    store = tmp_path / "store"
    suite = tmp_path / "mine.toml"
    suite.write_text(SUITE.format(methods='"all"\nmax_passes = 200', images=2))
    first = call("run", "--suite", suite, "--store", store)
    assert first.returncode == 0, first.stderr
    assert name not in first.stdout
    before = parts(store)

    listed = call("list", "methods", path=own)
    assert name in listed.stdout
    checked = call("check", name, path=own)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    second = call("run", "--suite", suite, "--store", store, path=own)
    assert second.returncode == 0, second.stderr
    assert name in second.stdout
    assert name in (store / "boards" / "mine.md").read_text()
    after = parts(store)
    assert {key: after[key] for key in before} == before, "no cell of the other methods is computed again"
    assert len(after) > len(before)

    (own / file).write_text(code + "\n# edited\n")
    third = call("run", "--suite", suite, "--store", store, path=own)
    assert third.returncode == 0
    assert len(parts(store)) > len(after), "an edited file makes its own results stale"
    assert {key: parts(store)[key] for key in after} == after

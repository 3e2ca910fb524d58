"""The Ray engine gives what one process gives, also when a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from faults import complete, content, parts, suite_file

pytest.importorskip("ray")

IMAGES = 20


def start(suite: Path, store: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    command = [sys.executable, "-m", "xbench", "run", "--suite", str(suite), "--store", str(store), "--engine", "ray"]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_ray_gives_the_store_of_one_process_though_a_worker_is_killed(tmp_path: Path) -> None:
    suite, store = suite_file(tmp_path, IMAGES), tmp_path / "ray"
    process = start(suite, store)
    holder = 0
    while process.poll() is None and not holder:
        for path in (store / "claims").glob("*.claim"):
            try:
                holder = int(json.loads(path.read_text())["pid"])
            except (OSError, ValueError):
                continue
        time.sleep(0.01)
    assert holder not in (0, process.pid), "a process of the cluster computes"
    before = parts(store)
    os.kill(holder, signal.SIGKILL)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    assert "0 failed" in out
    after = parts(store)
    assert {name: after[name] for name in before} == before, "no finished part is computed again"
    complete(suite, tmp_path / "local")
    # The pages say how to make them again, which only the command line knows.
    ours, theirs = (
        {name: value for name, value in content(folder).items() if not name.endswith((".md", ".html"))}
        for folder in (store, tmp_path / "local")
    )
    assert ours == theirs

"""Helpers shared by the tests: the command line in this process."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests fork this process, and a fork waits forever for threads that were left behind.
os.environ["OMP_NUM_THREADS"] = "1"

from xbench.cli import main

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Outcome:
    status: int
    out: str
    err: str


@pytest.fixture
def xbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command line with the given words and returns its status and what it printed."""

    def call(*words: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["xbench", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("NO_COLOR", "1")
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own cache."""
    monkeypatch.setenv("XBENCH_CACHE", str(tmp_path / "cache"))

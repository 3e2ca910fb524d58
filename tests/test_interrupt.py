"""Ctrl-C ends a real run, wherever it is, with a store to go on with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from faults import LONG_KINDS, QUICK, complete, interrupted, parts

CASES = [("a long method", "local"), ("a long metric", "local"), ("a long method", "ray")]


@pytest.mark.parametrize(("kind", "engine"), CASES)
def test_ctrl_c_ends_a_run_and_keeps_what_it_has(tmp_path: Path, kind: str, engine: str) -> None:
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    suite, store = tmp_path / "long.toml", tmp_path / "store"
    suite.write_text(LONG_KINDS[kind])
    seconds, status, output = interrupted(suite, store, engine)
    assert status == 130, output
    assert "stopped; what was finished is stored, the same command goes on from there" in " ".join(output.split())
    assert "Traceback" not in output
    assert seconds < 10  # a second on a machine that has time
    kept = parts(store)
    assert len(kept) == 1
    assert not list(store.rglob(".*")), "no half-written file"
    assert not list(store.rglob("*.claim")) or engine == "ray"
    quick = tmp_path / "quick.toml"
    quick.write_text(QUICK)
    complete(quick, store)
    assert parts(store) == kept, "the cell that was finished is not computed again"

"""A suite that takes a second, for tests of how it is run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from xbench import Result
from xbench.run.cells import Plan
from xbench.run.plan import make_plan
from xbench.run.suite import load_suite
from xbench.store import Store

SUITE = """
title = "Test"
description = "A small suite."
dataset = "mnist"
classifier = "mnist-cnn"
methods = ["gradient", "rise(masks=20)"]
[[metrics]]
spec = "deletion"
images = 6
"""


def plan_in(folder: Path, lines: list[str] | None = None, **options: Any) -> Plan:
    """The plan of the suite on a store in the folder; what the store reports goes to ``lines``."""
    (folder / "mine.toml").write_text(SUITE)
    report = (lines if lines is not None else []).append
    return make_plan(load_suite(str(folder / "mine.toml")), Store(folder / "store", report), **options)


def silent() -> Console:
    """A console that nobody reads."""
    return Console(file=io.StringIO())


def assert_close_scores(one: Result, two: Result) -> None:
    """The scores of two results agree to 1e-5."""
    assert one.scores.keys() == two.scores.keys()
    for name, values in one.scores.items():
        torch.testing.assert_close(torch.tensor(values), torch.tensor(two.scores[name]), atol=1e-5, rtol=0)

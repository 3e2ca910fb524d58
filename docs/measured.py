"""Pages of `docs/entries.py` that are not docstrings: the papers' protocols, and how far the metrics can be trusted."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pandas as pd

from xbench.board.markdown_trust import interval, number_or_dash
from xbench.board.papers import published
from xbench.board.reliability import correlations
from xbench.method import METHODS
from xbench.run.suite import load_suite

BOARDS = Path(__file__).resolve().parents[1] / "leaderboards"
PROTOCOLS = {"paper-vp": "Variational", "paper-varsal": None, "paper-g": "Explaining", "paper-sas": "Saliency"}
"""The suites of the papers, and how the title of their published numbers begins; VarSal's paper has no such table here."""
PROTOCOLS_INTRO = """# The papers' protocols, and where we differ

Made by `python docs/entries.py` from the suites and the published numbers in `xbench/board/published/`. `xbench papers`
prints a board's numbers beside the published ones; what came out here is on [the papers' claims](papers.md). Our own decisions
on a method or metric, where its paper leaves one open, are marked so in its [description](methods.md).
"""
RELIABILITY_INTRO = """# How far the metrics can be trusted

Made by `python docs/entries.py` from `leaderboards/*.csv`: the published boards, on embedded digits. What the columns mean and
what to do about them: [choosing metrics](choosing-metrics.md).
"""


def protocols_page() -> str:
    """Per paper: what the suite computes, what is unlike the paper, which published tables it is compared with."""
    parts = [PROTOCOLS_INTRO]
    for name, start in PROTOCOLS.items():
        suite = load_suite(name)
        tables = [table for table in published() if start is not None and table.paper.startswith(start)]
        runs = [f"- `{run.spec}` on {run.images or 'all'} images" for run in suite.metrics]
        ours = [
            f"Dataset here: `{suite.dataset}`, classifier: `{suite.classifier}`. `--dataset` and `--classifier` change them."
        ]
        parts += [f"## {suite.title}\n", suite.description + "\n", f"```bash\nxbench plan --suite {name}\n```\n", *ours, ""]
        parts += ["What is computed:\n", "\n".join(runs), ""]
        if tables:
            differs = dict.fromkeys(itertools.chain.from_iterable(table.differs for table in tables))
            parts += ["Where we differ:\n", "\n".join(f"- {line}" for line in differs), ""]
            titles = "\n".join(f"- {table.title} ({', '.join(table.datasets)})" for table in tables)
            names = dict.fromkeys(METHODS.make(spec).name for table in tables for spec in table.specs.values())
            linked = ", ".join(f"[{name}](methods.md#{name})" for name in names)
            parts += [f"Published tables that are compared, for {linked}:\n", titles, ""]
    return "\n".join(parts)


def reliability_page() -> str:
    """Per published board: the reliability of every ranked column, and which columns agree least."""
    parts = [RELIABILITY_INTRO]
    for path in sorted(BOARDS.glob("*-metrics.csv")):
        name = path.name.removesuffix("-metrics.csv")
        if name == "overall":  # the columns of the others
            continue
        rows = pd.read_csv(path)
        parts += [
            f"## {name.capitalize()}\n",
            _trust(rows),
            f"Board: [{name}](../leaderboards/{name}.md).",
            _disagreement(name),
        ]
    return "\n".join(parts)


def _trust(rows: pd.DataFrame) -> str:
    lines = [
        "| metric, column | methods | images | pairs told apart | other images, tau | alpha | above random |",
        "|---|---|---|---|---|---|---|",
    ]
    row: Any
    for row in rows.itertuples():
        above = f"{row.above_random} of {row.beside_random}" if row.beside_random else "-"
        cells = [f"`{row.metric}`, {row.column}", row.methods, row.images, f"{row.separated} of {row.pairs}"]
        cells += [interval(row.halves, row.halves_low, row.halves_high), number_or_dash(row.alpha), above]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _disagreement(name: str) -> str:
    """The two columns of different metrics that rank the methods least alike."""
    table = correlations(pd.read_csv(BOARDS / f"{name}.csv"))
    pairs = [
        (table.iloc[i, j], one, other)
        for (i, one), (j, other) in itertools.combinations(enumerate(table.index), 2)
        if one.metric != other.metric and not math.isnan(table.iloc[i, j])
    ]
    if not pairs:
        return ""
    tau, one, other = min(pairs, key=lambda pair: pair[0])
    named = " and ".join(f"`{key.metric}` ({key.column})" for key in (one, other))
    return f"The columns that agree least: {named}, Kendall's tau {tau:.2f}.\n"

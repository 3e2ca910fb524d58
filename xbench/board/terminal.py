"""A board as plain text for the command line: means and ranks only."""

from __future__ import annotations

from typing import Any

import pandas as pd
import rich.console
from tabulate import tabulate

from xbench.board.board import Board
from xbench.board.table import NAN_LIMIT, Key
from xbench.board.text import ARROWS, HOLES, clean, cut, decimals, numbers, short_names

WIDTH = 100


def show(board: Board, console: rich.console.Console) -> None:
    """Prints a board."""
    console.print(text(board), markup=False, highlight=False, emoji=False, soft_wrap=True)


def text(board: Board) -> str:
    """The board in lines of at most 100 characters as far as a single column allows it; wide boards become several tables."""
    subsets = ", ".join(clean(subset) for subset in board.summary["subset"].unique())
    classifiers = ", ".join(clean(classifier) for classifier in board.summary["classifier"].unique())
    notes = (
        f"#: rank in the column before; none for controls, above {100 * NAN_LIMIT:.0f} % NaN, and in columns without an arrow"
    )
    parts = [f"{clean(board.title)}\nsubset {subsets}; classifier {classifiers}", *_tables(board, list(board.columns)), notes]
    return "\n\n".join(parts)


def _tables(board: Board, keys: list[Key]) -> list[str]:
    """One table if it fits; else one for each metric; else halves of its columns."""
    table = _table(board, keys)
    if len(keys) == 1 or max(map(len, table.splitlines())) <= WIDTH:
        return [table]
    metrics = dict.fromkeys(key[:3] for key in keys)
    parts = [[key for key in keys if key[:3] == metric] for metric in metrics]
    if len(parts) == 1:
        parts = [keys[: len(keys) // 2], keys[len(keys) // 2 :]]
    return [made for part in parts for made in _tables(board, part)]


def _table(board: Board, keys: list[Key]) -> str:
    names = short_names(board.summary)
    controls = set(board.summary.loc[board.summary["control"], "method"])
    mean = board.ranks.mean
    rows = [
        [cut(names[m]), f"{mean[m]:.2f}" if m in mean.index else "control" if m in controls else "-"] for m in board.ordered
    ]
    header = ["method", "mean rank"]
    several = [part for part in ("subset", "classifier") if board.summary[part].nunique() > 1]
    for key in keys:
        column = board.columns[key]
        digits = decimals(column["mean"])
        place = [*(getattr(key, part) for part in several), key.metric, key.column]
        header += ["\n".join(cut(part) for part in place) + ARROWS[column.iloc[0].direction], "#"]
        for row, method in zip(rows, board.ordered, strict=True):
            row += _cell(column.loc[method], digits)
    return tabulate(rows, header, colalign=["left"] + ["right"] * (len(header) - 1), disable_numparse=True)


def _cell(row: Any, digits: int) -> list[str]:
    if row.status != "ok":
        return [HOLES[row.status], ""]
    mean = "NaN" if pd.isna(row["mean"]) else numbers([row["mean"]], digits)[0]
    return [mean, "" if pd.isna(row["rank"]) else str(row["rank"])]

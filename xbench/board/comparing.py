"""Two methods, or two stores, side by side in markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from xbench.board.board import Board, make_board
from xbench.board.markup import escape, table
from xbench.board.paired import advantages
from xbench.board.table import Key, keyed
from xbench.board.text import ARROWS, decimals, numbers
from xbench.errors import XbenchError
from xbench.result import Result


def methods_table(board: Board, first: str, second: str) -> str:
    """Two methods: their means and how much better the first is, with 95 % intervals, one row per ranked column."""
    results = {(result.metric, result.method): result for result in board.results}
    metrics = list(dict.fromkeys(result.metric for result in board.results))
    paired = advantages((results[metric, first], results[metric, second]) for metric in metrics)
    rows = []
    for _, row in paired.iterrows():
        key = Key(*(str(row[field]) for field in Key._fields))
        column = board.columns[key]
        digits = decimals(column["mean"])
        means = numbers(column["mean"].loc[[first, second]].tolist(), digits)
        rows.append([_title(board, key), *means, advantage(row, digits), f"{row.n:.0f}"])
    return table(rows, ["score", escape(first), escape(second), "first better by", "images"], left=1)


def stores_table(first: Sequence[Result], second: Sequence[Result], first_name: str, second_name: str) -> str:
    """Two stores of one suite: every method's means in both and how much better it scores in the first, on the same images.

    Raises XbenchError if they share no cell with scores.
    """
    others = {(result.metric, result.method): result for result in second if result.status == "ok"}
    pairs = [
        (result, others[cell])
        for result in first
        if result.status == "ok" and (cell := (result.metric, result.method)) in others
    ]
    if not pairs:
        raise XbenchError(f"{first_name} and {second_name} have no result of the same metric and method")
    boards = [make_board([pair[i] for pair in pairs], "") for i in (0, 1)]
    rows = []
    for _, row in advantages(pairs).iterrows():
        key = Key(*(str(row[field]) for field in Key._fields))
        digits = decimals(boards[0].columns[key]["mean"])
        means = numbers([float(board.columns[key]["mean"].loc[row.method]) for board in boards], digits)
        rows.append(
            [_title(boards[0], key), escape(row.method), *means, advantage(row, digits), _largest(pairs, key, row.method)]
        )
    header = ["score", "method", escape(first_name), escape(second_name), "first better by", "largest difference of an image"]
    return table(rows, header, left=2)


def advantage(row: Any, digits: int) -> str:
    """A paired difference with its interval; bold where it is certainly above 0, slanted where certainly below."""
    if pd.isna(row["mean"]):
        return "-"
    mean, low, high = numbers([row["mean"], row.low, row.high], digits)
    text = f"{mean} [{low}, {high}]"
    return f"**{text}**" if row.low > 0 else f"*{text}*" if row.high < 0 else text


def _largest(pairs: Sequence[tuple[Result, Result]], key: Key, method: str) -> str:
    ours, theirs = next(pair for pair in pairs if pair[0].method == method and key in dict(keyed(pair[0])))
    differences = [abs(a - b) for a, b in zip(ours.scores[key.column], theirs.scores[key.column], strict=True)]
    return f"{max((d for d in differences if d == d), default=0.0):.1e}"


def _title(board: Board, key: Key) -> str:
    first = board.columns[key].iloc[0]
    return f"{escape(key.metric)}: {escape(str(first.title))}{ARROWS[str(first.direction)]}"

"""What a board says in markdown about its metrics: do they deserve trust?"""

from __future__ import annotations

import math
from typing import Any

from xbench.board.board import Board
from xbench.board.markup import escape, place, table
from xbench.board.reliability import SPLITS, cannot_separate
from xbench.board.table import Key

NOTES = f"""\
- Methods apart: pairs of ranked methods that the column separates with confidence, of all pairs; ⚠ if there is none.
- Friedman: p of the hypothesis that all methods are equally good, and Kendall's W (1: every image ranks the methods alike).
- Other images: Kendall's tau between the rankings on two random halves of the images, mean and 95 % of {SPLITS} splits.
- Other seeds: the same between runs with different seeds, with its bootstrap interval over images; - without such runs.
- Alpha: Krippendorff's alpha of the images as raters of the methods, with its bootstrap interval over images; 0 is what
  chance gives.
- Above random: methods that score better than the random control with confidence.
"""


def trust_section(board: Board) -> str:
    """The reliability of every ranked column, and how far the columns agree; "" on a board without ranks."""
    rows = board.reliability
    if rows.empty:
        return ""
    parts = ["## Do the metrics deserve trust?", trust_table(board), NOTES.rstrip()]
    if len(rows) > 1:
        parts += [
            "### Do they agree?",
            "Kendall's tau between the columns' means over the methods that both rank.",
            agreement(board),
        ]
    return "\n\n".join(parts)


def trust_table(board: Board) -> str:
    """One row per ranked column."""
    header = ["column", "methods apart", "Friedman p, W", "other images", "other seeds", "alpha", "above random"]
    cells = []
    row: Any
    for number, row in enumerate(board.reliability.itertuples(), 1):
        key = Key(*map(str, (row.subset, row.classifier, row.metric, row.column)))
        mark = " ⚠" if cannot_separate(board.comparisons[key]) else ""
        cells.append(
            [
                f"{number}: {_title(board, key)}",
                f"{row.separated} of {row.pairs}{mark}",
                f"{p_value(row.friedman_p)}, {number_or_dash(row.concordance)}",
                interval(row.halves, row.halves_low, row.halves_high),
                interval(row.seeds, row.seeds_low, row.seeds_high),
                interval(row.alpha, row.alpha_low, row.alpha_high),
                f"{row.above_random!s} of {row.beside_random!s}" if row.beside_random else "-",
            ]
        )
    return table(cells, header, left=1)


def agreement(board: Board) -> str:
    """The rank correlation of every two columns, numbered as in the table above."""
    found = board.agreement
    numbers = [str(i + 1) for i in range(len(found))]
    rows = [
        [f"{number}: {_title(board, key)}", *map(number_or_dash, found.iloc[i])]
        for i, (number, key) in enumerate(zip(numbers, found.index, strict=True))
    ]
    return table(rows, ["column", *numbers], left=1)


def p_value(p: Any) -> str:
    """A p-value as people read it."""
    return "-" if math.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}"


def number_or_dash(value: Any) -> str:
    """A number of at most 1 with two digits."""
    return "-" if math.isnan(value) else f"{value + 0.0:.2f}"


def interval(mean: Any, low: Any, high: Any) -> str:
    """A number with its interval."""
    return "-" if math.isnan(mean) else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _title(board: Board, key: Key) -> str:
    return f"{place(key, board)}{escape(key.metric)}: {escape(str(board.columns[key].iloc[0].title))}"

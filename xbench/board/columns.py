"""The scores of one column of a board as arrays, and what the comparison of its methods adds to the summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xbench.board.significance import Comparison, compare
from xbench.board.table import Key, keyed
from xbench.result import Result


@dataclasses.dataclass(frozen=True)
class ColumnScores:
    """Scores (m, n) of a column's methods that are computed on the same n images."""

    key: Key
    higher_is_better: bool
    methods: tuple[str, ...]
    ids: tuple[str, ...]
    values: NDArray[np.float64]


def ranked_scores(results: Sequence[Result], summary: pd.DataFrame) -> dict[Key, list[ColumnScores]]:
    """The scores of the ranked methods by column, in one array for each set of images, the set of most methods first."""
    table = summary[summary["rank"].notna()]
    ranked = set(zip(table["subset"], table["classifier"], table["metric"], table["column"], table["method"], strict=True))
    groups: dict[Key, dict[tuple[str, ...], list[Result]]] = {}
    directions: dict[Key, bool] = {}
    for result in results:
        if result.status != "ok":
            continue
        for key, column in keyed(result):
            if (*key, result.method) in ranked:
                directions[key] = bool(column.higher_is_better)
                groups.setdefault(key, {}).setdefault(tuple(result.ids), []).append(result)
    order = dict.fromkeys(zip(*(summary[field] for field in Key._fields), strict=True))
    return {
        key: [
            ColumnScores(
                key,
                directions[key],
                tuple(result.method for result in of),
                ids,
                np.array([result.scores[key.column] for result in of], dtype=np.float64),
            )
            for ids, of in sorted(sets.items(), key=lambda pair: -len(pair[1]))
        ]
        for key in map(Key._make, order)
        if (sets := groups.get(key))
    }


def compare_columns(scores: dict[Key, list[ColumnScores]]) -> dict[Key, Comparison]:
    """The comparison of every column, of its largest set of methods with the same images."""
    return {key: compare(sets[0].methods, sets[0].values, sets[0].higher_is_better) for key, sets in scores.items()}


def with_ranges(summary: pd.DataFrame, comparisons: dict[Key, Comparison]) -> pd.DataFrame:
    """A summary with the columns ``rank_low`` and ``rank_high`` behind the rank: the ranks that the data leaves to a method.

    Methods that cannot be told from the best share ``rank_low`` 1. Empty where a method is not ranked, or was scored on other
    images than most.
    """
    ranges = {
        (*key, method): pair
        for key, comparison in comparisons.items()
        for method, pair in zip(comparison.methods, comparison.rank_ranges.tolist(), strict=True)
    }
    cells = zip(summary["subset"], summary["classifier"], summary["metric"], summary["column"], summary["method"], strict=True)
    found = [ranges.get(cell, (pd.NA, pd.NA)) for cell in cells]
    table = summary.copy()
    low_high = pd.DataFrame(found, columns=["rank_low", "rank_high"], index=table.index).astype("Int64")
    before = table.columns[: list(table.columns).index("rank") + 1]
    return pd.concat([table[before], low_high, table.drop(columns=before)], axis=1)

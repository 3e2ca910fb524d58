"""Differences between two methods, image by image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from xbench.board.statistics import describe
from xbench.board.table import Key, keyed
from xbench.result import Result


def advantages(pairs: Iterable[tuple[Result, Result]]) -> pd.DataFrame:
    """How much better the first of two results scores than the second on the same images, one row per pair and ranked column.

    Columns: those of ``Key``, method, other (the second's method), n (images with both scores), mean (positive where the first
    is better, whatever the column's direction), low and high (95 % interval of the mean, percentile bootstrap over images, as
    in ``describe``). Left out are pairs of different metrics, or of different images, and results without scores.
    """
    rows, differences = [], []
    for first, second in pairs:
        if not (first.status == second.status == "ok" and first.ids == second.ids):
            continue
        columns = dict(keyed(second))
        for key, column in keyed(first):
            if column.higher_is_better is None or key not in columns:
                continue
            sign = 1 if column.higher_is_better else -1
            ours, theirs = (np.array(result.scores[column.name], dtype=float) for result in (first, second))
            rows.append({**key._asdict(), "method": first.method, "other": second.method})
            differences.append(sign * (ours - theirs))
    table = pd.DataFrame(rows, columns=[*Key._fields, "method", "other"])
    measures = pd.DataFrame(index=table.index, columns=["n", "mean", "low", "high"], dtype=float)
    for length in {len(values) for values in differences}:
        index = [i for i, values in enumerate(differences) if len(values) == length]
        stats = describe(np.stack([differences[i] for i in index]))
        counts = np.round((1 - stats.nan_share) * length)
        measures.loc[index] = np.stack([counts, stats.mean, stats.low, stats.high], 1)
    return pd.concat([table, measures], axis=1)


def against_controls(results: Sequence[Result]) -> pd.DataFrame:
    """The advantages of every method over every control."""
    controls = [result for result in results if result.control]
    methods = [result for result in results if not result.control]
    return advantages((method, control) for control in controls for method in methods)

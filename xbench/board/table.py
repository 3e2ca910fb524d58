"""The tables of a board: one row per column and method, and one row per column, method and image."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from xbench.board.ranks import competition_ranks
from xbench.board.statistics import describe, draws_std
from xbench.metric import Column
from xbench.result import Result

NAN_LIMIT = 0.05
"""Above this share of NaN a method is not ranked in a column (own decision)."""

MEASURES = ("mean", "median", "low", "high", "std", "draws_std", "nan_share")


class Key(NamedTuple):
    """What tells the columns of a board apart."""

    subset: str
    classifier: str
    metric: str
    column: str


def keyed(result: Result) -> Iterator[tuple[Key, Column]]:
    """The columns of a result with their keys."""
    for column in result.columns:
        yield Key(result.subset, result.classifier, result.metric, column.name), column


def summary_table(results: Sequence[Result]) -> pd.DataFrame:
    """One row per column and method, both in the order of the results; what no result tells of is ``missing``.

    Columns: subset, classifier, method, label, control, metric, column, title, unit, direction ("higher", "lower", or "" for
    not ranked), n (images), mean, median, low and high (95 % interval of the mean), std (over images), draws_std (of the
    means of the draws), nan_share in [0, 1], rank, status, reason (of a hole, or why scores are NaN).

    Ranked are scores with a direction, of methods that are not controls, with at most 5 % NaN. Numbers have 6 significant
    digits, and ranks compare these: rounding noise separates no two methods, and the CSV gives the same ranks (own decision).
    """
    columns = {key: column for result in results for key, column in keyed(result)}
    cells = {(key, result.method): result for result in results for key, _ in keyed(result)}
    methods = {result.method: result for result in results}
    measured = _measured(results)
    rows = [
        {
            **key._asdict(),
            "method": method,
            "label": known.label,
            "control": known.control,
            "title": column.title,
            "unit": column.unit,
            "direction": {True: "higher", False: "lower", None: ""}[column.higher_is_better],
            **measured.get((key, method), dict.fromkeys(("n", *MEASURES), np.nan)),
            **_status(cells.get((key, method)), column),
        }
        for key, column in columns.items()
        for method, known in methods.items()
    ]
    table = pd.DataFrame(rows)
    may = (table["direction"] != "") & ~table["control"] & (table["nan_share"] <= NAN_LIMIT)
    ranks = competition_ranks(
        _wide(table["mean"].where(may), methods), [column.higher_is_better is True for column in columns.values()]
    )
    table["rank"] = ranks.to_numpy().T.ravel()
    before = ["subset", "classifier", "method", "label", "control", "metric", "column", "title", "unit", "direction", "n"]
    return table[[*before, *MEASURES, "rank", "status", "reason"]].astype({"n": "Int64", "rank": "Int64"})


def ranks_of(summary: pd.DataFrame) -> pd.DataFrame:
    """The ranks of a summary as methods x columns, NaN where a method is not ranked."""
    return _wide(summary["rank"].astype("float64"), dict.fromkeys(summary["method"]))


def image_table(results: Sequence[Result]) -> pd.DataFrame:
    """One row per column, method and image: subset, classifier, method, metric, column, image, value (NaN stays NaN)."""
    columns: dict[Key, list[Result]] = {}
    for result in results:
        for key, _ in keyed(result):
            columns.setdefault(key, []).append(result)
    cells = [(key, result) for key, column in columns.items() for result in column if result.status == "ok"]
    counts = [len(result.ids) for _, result in cells]
    table = {
        name: np.repeat(np.array([getattr(key, name, result.method) for key, result in cells], dtype=object), counts)
        for name in ("subset", "classifier", "method", "metric", "column")
    }
    images = [image for _, result in cells for image in result.ids]
    values = [value for key, result in cells for value in result.scores[key.column]]
    return pd.DataFrame({**table, "image": images, "value": values})


def _measured(results: Sequence[Result]) -> dict[tuple[Key, str], dict[str, float]]:
    """The statistics of all scores by column and method; results on the same images are described together."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        if result.status == "ok":
            groups.setdefault((result.subset, result.classifier, result.metric, *result.ids), []).append(result)
    measured = {}
    for group in groups.values():
        cells = [(key, result) for result in group for key, _ in keyed(result)]
        values = np.array([result.scores[key.column] for key, result in cells], dtype=np.float64)
        found = describe(values)
        for i, (key, result) in enumerate(cells):
            numbers = {name: getattr(found, name)[i] for name in MEASURES if name != "draws_std"}
            numbers["draws_std"] = draws_std(values[i], result.draws)
            six = {name: float(f"{number:.6g}") for name, number in numbers.items()}
            measured[key, result.method] = {"n": len(result.ids), **six}
    return measured


def _status(result: Result | None, column: Column) -> dict[str, str]:
    if result is None:
        return {"status": "missing", "reason": ""}
    if result.status != "ok":
        return {"status": result.status, "reason": result.reason}
    return {"status": "ok", "reason": "; ".join(sorted(set(result.reasons.get(column.name, {}).values())))}


def _wide(values: pd.Series[float], methods: Collection[str]) -> pd.DataFrame:
    """A column of a summary, which lists all methods for every column of the board, as methods x columns."""
    return pd.DataFrame(values.to_numpy().reshape(-1, len(methods)).T, index=list(methods))

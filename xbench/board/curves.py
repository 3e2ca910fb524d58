"""The mean curves of a board, for whoever draws them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from xbench.board.board import Board
from xbench.board.table import Key
from xbench.board.text import clean
from xbench.result import Result


@dataclasses.dataclass(frozen=True)
class Curves:
    """One curve of a metric: its mean over images by method, over an axis with equal steps from ``ends[0]`` to ``ends[1]``."""

    title: str
    axis: str
    ends: tuple[float, float]
    means: dict[str, NDArray[np.float64]]


def mean_curves(board: Board) -> Iterator[Curves]:
    """The curves that results say are worth drawing; a point that is not finite counts for no mean."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in board.results:
        if result.status == "ok" and result.curve_axis is not None:
            for curve, lists in result.curves.items():
                if len(lists[0]) > 1:
                    groups.setdefault((result.subset, result.classifier, result.metric, curve), []).append(result)
    for (subset, classifier, metric, curve), results in groups.items():
        means = {}
        for result in results:
            points = np.array(result.curves[curve], dtype=np.float64)
            finite = np.isfinite(points)
            with np.errstate(invalid="ignore"):
                mean = np.where(finite, points, 0).sum(0) / finite.sum(0)
            if np.isfinite(mean).any():
                means[result.method] = mean
        if means:
            assert results[0].curve_axis is not None
            label, first, last = results[0].curve_axis
            end = first + len(next(iter(means.values()))) - 1 if last is None else last
            title = clean(f"{_place(board, subset, classifier)}{metric}: {curve}")
            yield Curves(title, clean(label), (first, end), means)


def _place(board: Board, subset: str, classifier: str) -> str:
    key = Key(subset, classifier, "", "")
    return "".join(f"{getattr(key, p)}, " for p in ("subset", "classifier") if board.summary[p].nunique() > 1)

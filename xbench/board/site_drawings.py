"""The drawings of the site, from a board."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from markupsafe import Markup

from xbench.board import svg
from xbench.board.board import Board
from xbench.board.site_data import title
from xbench.board.table import Key
from xbench.board.text import clean, cut, short_names
from xbench.result import Result


def diagrams(board: Board) -> list[dict[str, Any]]:
    """A critical-difference diagram for every column with at least two ranked methods."""
    names = short_names(board.summary)
    made = []
    for key, found in board.comparisons.items():
        if math.isnan(found.critical_difference):
            continue
        labels = [cut(names[method]) for method in found.methods]
        drawn = svg.critical_difference(labels, found.mean_ranks, found.critical_difference)
        p = "p < .001" if found.p_value < 0.001 else f"p = {found.p_value:.3f}"
        note = f"Friedman test {p}, Kendall's W {found.concordance:.2f}, {found.images} images"
        made.append({"title": title(board, key), "note": note, "svg": drawn})
    return made


def charts(board: Board) -> list[dict[str, Any]]:
    """The curves that results say are worth drawing, each with the methods in it."""
    numbers = {method: i for i, method in enumerate(board.ordered)}
    names = short_names(board.summary)
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in board.results:
        if result.status == "ok" and result.curve_axis is not None:
            for curve, lists in result.curves.items():
                if len(lists[0]) > 1:
                    groups.setdefault((result.subset, result.classifier, result.metric, curve), []).append(result)
    made = []
    for (subset, classifier, metric, curve), results in groups.items():
        series, methods = [], []
        for result in results:
            points = np.array(result.curves[curve], dtype=np.float64)
            finite = np.isfinite(points)
            with np.errstate(invalid="ignore"):
                mean = np.where(finite, points, 0).sum(0) / finite.sum(0)
            if np.isfinite(mean).any():
                series.append((numbers[result.method], cut(names[result.method]), mean))
                methods.append(result.method)
        if series:
            assert results[0].curve_axis is not None
            label, first, last = results[0].curve_axis
            ends = (first, first + len(series[0][2]) - 1 if last is None else last)
            heading = clean(f"{_place(board, subset, classifier)}{metric}: {curve}")
            made.append({"title": heading, "svg": svg.curves(series, ends, clean(label)), "methods": set(methods)})
    return made


def cost_against_quality(board: Board) -> Markup | None:
    """The mean rank of every ranked method against the classifier passes of a map; None without both."""
    passes = {result.method: result.map_passes for result in board.results if math.isfinite(result.map_passes)}
    names = short_names(board.summary)
    points = [(cut(names[m]), passes[m], float(board.ranks.mean[m])) for m in board.ranks.mean.index if m in passes]
    return svg.scatter(points, "classifier passes per map", "mean rank, best at the top") if points else None


def _place(board: Board, subset: str, classifier: str) -> str:
    key = Key(subset, classifier, "", "")
    return "".join(f"{getattr(key, p)}, " for p in ("subset", "classifier") if board.summary[p].nunique() > 1)

"""The drawings of the site, from a board."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from xbench.board import svg
from xbench.board.board import Board
from xbench.board.curves import mean_curves
from xbench.board.site_data import title
from xbench.board.text import cut, short_names


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
    """The mean curves, each with the methods in it."""
    numbers = {method: i for i, method in enumerate(board.ordered)}
    names = short_names(board.summary)
    made = []
    for found in mean_curves(board):
        series = [(numbers[method], cut(names[method]), mean) for method, mean in found.means.items()]
        made.append({"title": found.title, "svg": svg.curves(series, found.ends, found.axis), "methods": set(found.means)})
    return made


def cost_against_quality(board: Board) -> Markup | None:
    """The mean rank of every ranked method against the classifier passes of a map; None without both."""
    passes = {result.method: result.map_passes for result in board.results if math.isfinite(result.map_passes)}
    names = short_names(board.summary)
    points = [(cut(names[m]), passes[m], float(board.ranks.mean[m])) for m in board.ranks.mean.index if m in passes]
    return svg.scatter(points, "classifier passes per map", "mean rank, best at the top") if points else None

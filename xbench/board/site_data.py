"""What the site shows as tables: plain text and numbers, escaped by the template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from xbench.board.board import Board
from xbench.board.gallery import Gallery
from xbench.board.markdown_trust import interval, number_or_dash, p_value
from xbench.board.reliability import cannot_separate
from xbench.board.table import Key, keyed
from xbench.board.text import ARROWS, HOLES, clean, decimals, nan_note, numbers, short_names
from xbench.registry import digest

IMAGES = 200
"""So many images of a column are in the page, to keep it small (own decision)."""
DRAWN = 8
"""So many of the best methods have their curves drawn at first."""
INDISTINCT = "separates no two of the ranked methods on these images"


def facts(board: Board) -> list[str]:
    """Where the results come from, a line each."""
    summary = board.summary
    images = sorted({len(result.ids) for result in board.results if result.status == "ok"})
    counts = "no images" if not images else f"{images[0]} images" if len(images) == 1 else f"{images[0]} to {images[-1]} images"
    places = [f"{part}: {', '.join(clean(v) for v in summary[part].unique())}" for part in ("subset", "classifier")]
    methods = summary.groupby("method")["control"].first()
    return [*places, f"{int((~methods).sum())} methods, {int(methods.sum())} controls, {len(board.columns)} columns, {counts}"]


def title(board: Board, key: Key, *, metric: bool = True) -> str:
    """A column's title, with its subset and classifier where the board has several."""
    several = [part for part in ("subset", "classifier") if board.summary[part].nunique() > 1]
    place = "".join(f"{getattr(key, part)}, " for part in several)
    return clean(f"{place}{key.metric + ': ' if metric else ''}{board.columns[key].iloc[0].title}")


def heads(board: Board) -> list[dict[str, str]]:
    """The headings of the table of scores."""
    columns = [{"metric": "", "title": "method", "note": ""}, {"metric": "", "title": "mean rank", "note": ""}]
    for key, rows in board.columns.items():
        first = rows.iloc[0]
        unit = f" ({clean(first.unit)})" if first.unit else ""
        note = INDISTINCT if cannot_separate(board.comparisons.get(key)) else ""
        text = f"{title(board, key, metric=False)}{unit}{ARROWS[first.direction]}"
        columns.append({"metric": clean(key.metric), "title": text, "note": note})
    return columns


def rows(board: Board) -> list[dict[str, Any]]:
    """The rows of the table of scores, as a board orders its methods."""
    names, labels = short_names(board.summary), dict(zip(board.summary["method"], board.summary["label"], strict=True))
    control = board.summary.groupby("method")["control"].first()
    made = []
    columns = [(board.columns[key], decimals(board.columns[key]["mean"])) for key in board.columns]
    for method in board.ordered:
        ranked = method in board.ranks.mean.index
        low, high = board.rank_intervals.loc[method, ["low", "high"]] if ranked else (0, 0)
        made.append(
            {
                "name": clean(f"{method} {labels[method]}"),
                "label": clean(names[method]),
                "control": bool(control[method]),
                "rank": f"{board.ranks.mean[method]:.2f}" if ranked else "-",
                "rank_value": f"{board.ranks.mean[method]:.6g}" if ranked else "",
                "rank_interval": f"[{low:.2f}, {high:.2f}]" if ranked else "",
                "cells": [_cell(of.loc[method], digits) for of, digits in columns],
            }
        )
    return made


def _cell(row: Any, digits: int) -> dict[str, Any]:
    if row.status != "ok":
        return {"value": "", "text": HOLES[row.status], "note": clean(row.reason), "interval": "", "rank": "", "best": False}
    note = "; ".join(filter(None, (nan_note(row), clean(row.reason))))
    if pd.isna(row["mean"]):
        return {"value": "", "text": "NaN", "note": note, "interval": "", "rank": "", "best": False}
    mean, low, high = numbers([row["mean"], row.low, row.high], digits)
    ranked = pd.notna(row["rank"])
    open_ = ranked and pd.notna(row.rank_low) and row.rank_low < row.rank_high
    rank = f"({row['rank']})" + (f" {row.rank_low}-{row.rank_high}" if open_ else "") if ranked else ""
    best = bool(pd.notna(row.rank_low) and row.rank_low == 1)
    return {
        "value": f"{row['mean']:.6g}",
        "text": mean,
        "note": note,
        "interval": f"[{low}, {high}]",
        "rank": rank,
        "best": best,
    }


def matrices(board: Board) -> list[dict[str, Any]]:
    """The rank matrix, and where a board has several benchmarks that of each."""
    boards = {"All benchmarks" if board.parts else "": board, **board.parts}
    return [_matrix(clean(name), part) for name, part in boards.items() if len(part.ranks.mean)]


def _matrix(name: str, board: Board) -> dict[str, Any]:
    names, counts, mean = short_names(board.summary), board.ranks.counts, board.ranks.mean
    most = int(counts.to_numpy().max())
    made = []
    for method in counts.index:
        low, high = board.rank_intervals.loc[method, ["low", "high"]]
        shades = [(int(count), math.ceil(4 * count / most)) for count in counts.loc[method]]
        row = {"name": clean(names[method]), "mean": f"{mean[method]:.2f}", "interval": f"[{low:.2f}, {high:.2f}]"}
        made.append({**row, "counts": shades})
    return {"title": name, "ranks": list(counts.columns), "rows": made}


def trust(board: Board) -> dict[str, Any] | None:
    """The reliability of the ranked columns and their agreement; None without any."""
    if board.reliability.empty:
        return None
    header = [
        "column",
        "methods apart",
        "Friedman p",
        "Kendall's W",
        "tau, other images",
        "tau, other seeds",
        "Krippendorff's alpha",
    ]
    made, titles = [], []
    row: Any
    for number, row in enumerate(board.reliability.itertuples(), 1):
        key = Key(*map(str, (row.subset, row.classifier, row.metric, row.column)))
        titles.append(f"{number}: {title(board, key)}")
        apart = f"{row.separated} of {row.pairs}{' ⚠' if cannot_separate(board.comparisons[key]) else ''}"
        halves = interval(row.halves, row.halves_low, row.halves_high)
        seeds = interval(row.seeds, row.seeds_low, row.seeds_high)
        alpha = interval(row.alpha, row.alpha_low, row.alpha_high)
        above = f"{row.above_random!s} of {row.beside_random!s}" if row.beside_random else "-"
        agreeing = [number_or_dash(row.concordance), halves, seeds, alpha]
        made.append([titles[-1], apart, p_value(row.friedman_p), *agreeing, above])
    agreement = [
        {"title": name, "cells": [(number_or_dash(v), _shade(v)) for v in values]}
        for name, values in zip(titles, board.agreement.to_numpy(), strict=True)
    ]
    return {"heads": [*header, "above random"], "rows": made, "agreement": agreement if len(agreement) > 1 else None}


def _shade(value: float) -> str:
    return "" if math.isnan(value) else f"{'h' if value >= 0 else 'n'}{math.ceil(4 * abs(value) - 1e-9)}"


def legend(board: Board, charts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The methods that have curves; drawn at first are the best ones and the random control."""
    names = short_names(board.summary)
    drawn = set().union(*(chart["methods"] for chart in charts))
    shown = [m for m in board.ordered if m in drawn][:DRAWN]
    shown += [m for m in board.ordered if m.partition("(")[0] == "random"]
    return [
        {"number": i, "name": clean(names[m]), "colour": i % 8, "dash": i // 8 % 3, "shown": m in shown}
        for i, m in enumerate(board.ordered)
        if m in drawn
    ]


def drill_down(board: Board, galleries: Sequence[Gallery]) -> dict[str, Any]:
    """The scores of the first images: per column and method a list, and which images (by number) it is of."""
    names, ordered = short_names(board.summary), board.ordered
    numbered: dict[str, int] = {}
    sets: dict[tuple[int, ...], int] = {}
    cells = {(key, r.method): r for r in board.results if r.status == "ok" for key, _ in keyed(r)}
    columns = []
    for key in board.columns:
        scores, of = [], []
        for method in ordered:
            result = cells.get((key, method))
            ids = result.ids[:IMAGES] if result else []
            place = tuple(numbered.setdefault(image, len(numbered)) for image in ids)
            of.append(sets.setdefault(place, len(sets)))
            scores.append([_short(v) for v in result.scores[key.column][:IMAGES]] if result else [])
        columns.append({"title": title(board, key), "scores": scores, "sets": of})
    pictures = {numbered[image]: src for one in galleries for image, src in one.images if image in numbered}
    return {
        "methods": [clean(names[method]) for method in ordered],
        "images": [clean(image) for image in numbered],
        "sets": [list(place) for place in sets],
        "columns": columns,
        "pictures": pictures,
    }


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def versions(board: Board) -> list[str]:
    """Every machine and set of versions that computed results of the board."""
    machines: dict[str, int] = {}
    for result in board.results:
        about = result.record.get("machine")
        if about:
            text = clean(", ".join(f"{name} {value}" for name, value in sorted(about.items())))
            machines[text] = machines.get(text, 0) + 1
    return [f"{count} cells: {text}" for text, count in machines.items()]


def keys(board: Board) -> list[tuple[str, str, str, str]]:
    """Metric, method, key and digest of the image ids of every cell with scores."""
    return [
        (clean(result.metric), clean(result.method), clean(result.key), digest(result.ids)[:16])
        for result in board.results
        if result.status == "ok"
    ]

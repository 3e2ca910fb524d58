"""Our numbers beside those that papers published."""

from __future__ import annotations

import dataclasses
import functools
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from xbench.board.board import Board
from xbench.board.markdown_trust import number_or_dash
from xbench.board.markup import escape, fenced, table
from xbench.board.reliability import kendall
from xbench.board.table import Key
from xbench.board.text import decimals, numbers
from xbench.errors import XbenchError

FOLDER = Path(__file__).parent / "published"


@dataclasses.dataclass(frozen=True)
class Published:
    """A table of a paper: values per method and data set for one column of one metric.

    ``specs`` holds, by the paper's name of a method, ours; ``values`` its numbers per data set as printed, NaN where there is
    none. ``scale`` is what our scores are multiplied by to be in the paper's unit.
    """

    paper: str
    source: str
    title: str
    metric: str
    column: str
    higher_is_better: bool
    datasets: tuple[str, ...]
    specs: dict[str, str]
    values: dict[str, tuple[float, ...]]
    differs: tuple[str, ...]
    scale: float = 1.0


@functools.cache
def published() -> tuple[Published, ...]:
    """Every table that ships with xbench, from the files beside this module."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        paper = tomllib.loads(path.read_text())
        for part in paper["tables"]:
            methods: dict[str, Any] = part.pop("methods")
            specs = {name: about["spec"] for name, about in methods.items()}
            values = {name: tuple(map(float, about["values"])) for name, about in methods.items()}
            differs = (*paper["differs"], *part.pop("differs", ()))
            part["datasets"] = tuple(part["datasets"])
            found.append(Published(paper["title"], paper["source"], **part, specs=specs, values=values, differs=differs))
    return tuple(found)


def against_papers(board: Board) -> str:
    """A page with the published numbers beside the board's, for every table that shares a metric with it.

    Rank agreement is Kendall's tau-b over the methods that both have, for each of the paper's data sets; it takes 3.

    Raises XbenchError if no table shares a metric and two methods with the board.
    """
    sections: dict[str, list[str]] = {}
    for one in published():
        for key in board.columns:
            if (key.metric.partition("(")[0], key.column) == (one.metric, one.column):
                text = _section(board, key, one)
                if text:
                    sections.setdefault(f"## {escape(one.paper)} ({escape(one.source)})", []).append(text)
    if not sections:
        known = sorted({f"{one.metric} ({one.column})" for one in published()})
        raise XbenchError(f"no published table shares a metric and two methods with this board; there are: {', '.join(known)}")
    subsets, classifiers = (", ".join(map(escape, board.summary[part].unique())) for part in ("subset", "classifier"))
    head = [
        f"# {escape(board.title)}: beside the papers",
        f"Ours: {subsets} with {classifiers}. The papers' numbers are as printed. Other images, classifiers and trainings give"
        " other numbers; what may agree is the order of the methods, which Kendall's tau measures (1: the same order).",
        fenced(board.reproduce) if board.reproduce else "",
    ]
    body = [part for paper, tables in sections.items() for part in (paper, *tables)]
    return "\n\n".join(part for part in [*head, *body] if part) + "\n"


def _section(board: Board, key: Key, one: Published) -> str:
    """One published table with our column beside it, their agreement, and what differs; "" without two methods of both."""
    rows: Any = board.columns[key]
    ours = {
        name: one.scale * float(rows.loc[spec, "mean"]) if spec in rows.index else math.nan for name, spec in one.specs.items()
    }
    if sum(map(math.isfinite, ours.values())) < 2:
        return ""
    digits = decimals(ours.values())
    cells, taus = [], []
    for name, spec in one.specs.items():
        theirs = [f"{value:g}" if math.isfinite(value) else "-" for value in one.values[name]]
        cells.append([escape(name), _ours(rows, spec, one.scale, digits), *theirs])
    for i in range(len(one.datasets)):
        pairs = [(ours[name], one.values[name][i]) for name in ours]
        kept = np.array([pair for pair in pairs if all(map(math.isfinite, pair))])
        tau = float(kendall(kept[:, 0][None], kept[:, 1][None])[0]) if len(kept) >= 3 else math.nan
        taus.append(f"{number_or_dash(tau)} ({len(kept)} methods)" if len(kept) >= 3 else "-")
    cells.append(["agreement with ours", "", *taus])
    arrow = "higher is better" if one.higher_is_better else "lower is better"
    images = sorted({int(n) for n in rows["n"].dropna()})
    notes = [*one.differs, f"Ours: {escape(key.metric)} on {' or '.join(map(str, images))} images, intervals over images."]
    heading = f"### {escape(one.title)}, {arrow}"
    header = ["method", f"ours, {escape(key.subset)}", *map(escape, one.datasets)]
    # A note is written as it stands in the data file, which ships with xbench.
    return "\n\n".join([heading, table(cells, header, left=1), "\n".join(f"- {note}" for note in notes)])


def _ours(rows: Any, spec: str, scale: float, digits: int) -> str:
    if spec not in rows.index:
        return "not on this board"
    row = rows.loc[spec]
    if row.status != "ok" or math.isnan(row["mean"]):
        return escape(str(row.status)) if row.status != "ok" else "NaN"
    mean, low, high = numbers([scale * row["mean"], scale * row.low, scale * row.high], digits)
    return f"{mean} [{low}, {high}]"

"""A board as a markdown page (GitHub's dialect)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pandas as pd
from tabulate import tabulate

from xbench.board.board import Board
from xbench.board.paired import advantages, against_controls
from xbench.board.statistics import RESAMPLES
from xbench.board.table import NAN_LIMIT, Key
from xbench.board.text import ARROWS, HOLES, clean, decimals, nan_note, numbers, short_names

NOTES = f"""\
- A cell is the mean over images, its 95 % interval in brackets (percentile bootstrap over images, {RESAMPLES:,} resamples), and
  the rank in bold. The interval says how far the mean depends on which images were drawn, not on seeds or training runs. Two
  methods whose intervals overlap may still differ, since they are scored on the same images.
- ↑ higher is better, ↓ lower is better; columns without an arrow are reported and not ranked.
- The best method of a column has rank 1; equal means share the smaller rank, and the next rank is left out. The mean rank is
  over the columns in which a method is ranked, their number in brackets: compare mean ranks over different columns with care.
- N/A: the metric has no value for this method. failed: it raised an error. -: not computed. None of these is ranked.
- NaN: the score is undefined for an image. The mean is over the other images; with more than {100 * NAN_LIMIT:.0f} % NaN a
  method is not ranked in that column.
- Controls never ask the classifier. They are not ranked: a score that a control reaches says nothing about the classifier.
- {{summary}} has every number of this page and the standard deviations over images and draws, {{images}} every image's score.
"""


def markdown(board: Board, name: str) -> str:
    """The page of a board whose files are called ``name``; links are relative to the page."""
    footnotes: dict[str, str] = {}
    ranked = len(board.ranks.mean)
    controls = set(board.summary.loc[board.summary["control"], "method"])
    methods = [method for method in board.ordered if method not in controls]
    notes = NOTES.format(summary=_link(f"{name}.csv"), images=_link(f"{name}-images.csv"))
    parts = [
        f"# {escape(board.title)}",
        board.description.strip(),
        computed_on(board),
        f"## Reproduce\n\n{fenced(board.reproduce)}" if board.reproduce else "",
        "## Scores",
        main_table(board, methods, footnotes) if methods else "There are no methods on this board besides the controls.",
        f"### Controls\n\n{main_table(board, board.ordered[-len(controls) :], footnotes)}" if controls else "",
        control_tables(board),
        "\n".join(f"- <sup>{mark}</sup> {text}" for text, mark in footnotes.items()),
        "## Ranks",
        rank_table(board) if ranked else "No method is ranked in any column of this board.",
        f"![How often each method took each rank]({quote(name)}-ranks.png)\n\nThe same figure as {_link(f'{name}-ranks.svg')}."
        if ranked
        else "",
        f"## How to read this page\n\n{notes.rstrip()}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def computed_on(board: Board) -> str:
    """The subsets, classifiers and numbers of images behind a board, as a list."""
    table = board.summary
    lines = [
        f"- Subset: {', '.join(escape(s) for s in table['subset'].unique())}",
        f"- Classifier: {', '.join(escape(c) for c in table['classifier'].unique())}",
    ]
    for group in dict.fromkeys(zip(table["subset"], table["classifier"], table["metric"], strict=True)):
        of = [r for r in board.results if (r.subset, r.classifier, r.metric) == group and r.status == "ok"]
        counts = sorted({len(r.ids) for r in of})
        images = "no images" if not of else _range(counts) + " images"
        draws = sorted({(len(r.draws), len(r.draws[0])) for r in of if r.draws})
        repeats = "".join(f", {count} draws of {size}" for count, size in draws)
        unequal = ", **not the same for all methods**" if len({tuple(r.ids) for r in of}) > 1 else ""
        lines.append(f"- {_place(Key(*group, ''), board)}{escape(group[2])}: {images}{repeats}{unequal}")
    return "\n".join(lines)


def main_table(board: Board, methods: list[str], footnotes: dict[str, str]) -> str:
    """Methods x columns with mean, interval and rank; reasons are added to ``footnotes`` (text to mark)."""
    labels = dict(zip(board.summary["method"], board.summary["label"], strict=True))
    header = ["method"]
    rows = [[_name(method, labels[method])] for method in methods]
    if ranked := not set(methods).isdisjoint(board.ranks.mean.index):
        header.append("mean rank")
        for row, method in zip(rows, methods, strict=True):
            row.append(_mean_rank(board, method))
    for key, column in board.columns.items():
        digits = decimals(column["mean"])
        first = column.iloc[0]
        unit = f" ({escape(first.unit)})" if first.unit else ""
        header.append(f"{_place(key, board)}{escape(key.metric)}<br>{escape(first.title)}{unit}{ARROWS[first.direction]}")
        for row, method in zip(rows, methods, strict=True):
            row.append(_cell(column.loc[method], digits, footnotes))
    return _table(rows, header, left=1 + ranked)


def control_tables(board: Board) -> str:
    """One table per ranked column: how much better each method is than each control, paired by image."""
    table = against_controls(board.results)
    names = short_names(board.summary)
    parts = []
    for key, column in board.columns.items():
        ours = table[(table[list(Key._fields)] == list(key)).all(axis=1)].set_index(["method", "other"])
        if ours.empty:
            continue
        digits = decimals(column["mean"])
        controls = [m for m in board.ordered if m in ours.index.unique("other")]
        methods = [m for m in board.ordered if m in ours.index.unique("method")]
        rows = [[escape(names[m]), *(_advantage(ours.loc[(m, c)], digits) for c in controls)] for m in methods]
        title = f"{_place(key, board)}{escape(key.metric)}: {escape(column.iloc[0].title)}"
        parts.append(f"{title}\n\n{_table(rows, ['method', *(escape(names[c]) for c in controls)], left=1)}")
    if not parts:
        return ""
    head = (
        "### Against the controls\n\nHow much better a method scores than a control on the same images, mean and 95 % interval;"
        " positive is better in every column. Bold: better with confidence. *Slanted*: worse with confidence."
    )
    return "\n\n".join([head, *parts])


def rank_table(board: Board) -> str:
    """How often each method took each rank, with its mean rank."""
    names = short_names(board.summary)
    counts = board.ranks.counts
    rows = [[escape(names[m]), _mean_rank(board, m), *map(str, counts.loc[m])] for m in counts.index]
    return _table(rows, ["method", "mean rank", *(f"rank {rank}" for rank in counts.columns)], left=1)


def escape(text: str) -> str:
    """Text on one line that markdown, also inside a table, shows as it is."""
    text = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Underscores inside words mean nothing in GitHub's dialect and stay readable in the source.
    return re.sub(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", text)


def fenced(text: str) -> str:
    """A code block, fenced by more backticks than the text has in a row."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text.strip()}\n{fence}"


def _cell(row: Any, digits: int, footnotes: dict[str, str]) -> str:
    if row.status != "ok":
        return HOLES[row.status] + _mark(f"{HOLES[row.status]}: {escape(row.reason)}" if row.reason else "", footnotes)
    nan = nan_note(row)
    if nan:
        nan += _mark(f"NaN: {escape(row.reason)}" if row.reason else "", footnotes)
    if pd.isna(row["mean"]):
        return nan
    mean, low, high = numbers([row["mean"], row.low, row.high], digits)
    rank = "" if pd.isna(row["rank"]) else f"**({row['rank']})**"
    if rank and pd.notna(row["rank_low"]) and row["rank_low"] < row["rank_high"]:
        rank += f" {row['rank_low']}-{row['rank_high']}"
    return " ".join(part for part in (f"{mean} [{low}, {high}]", rank, nan) if part)


def comparison(board: Board, first: str, second: str) -> str:
    """Two methods side by side: their means and how much better the first is, with 95 % intervals, as a table."""
    results = {(result.metric, result.method): result for result in board.results}
    metrics = list(dict.fromkeys(result.metric for result in board.results))
    table = advantages((results[metric, first], results[metric, second]) for metric in metrics)
    rows = []
    for _, row in table.iterrows():
        key = Key(*(str(row[field]) for field in Key._fields))
        column = board.columns[key]
        digits = decimals(column["mean"])
        title = f"{escape(key.metric)}: {escape(column.iloc[0].title)}{ARROWS[column.iloc[0].direction]}"
        means = numbers(column["mean"].loc[[first, second]].tolist(), digits)
        rows.append([title, *means, _advantage(row, digits), f"{row.n:.0f}"])
    header = ["score", escape(first), escape(second), "first better by", "images"]
    return _table(rows, header, left=1)


def _advantage(row: Any, digits: int) -> str:
    if pd.isna(row["mean"]):
        return "-"
    mean, low, high = numbers([row["mean"], row.low, row.high], digits)
    text = f"{mean} [{low}, {high}]"
    return f"**{text}**" if row.low > 0 else f"*{text}*" if row.high < 0 else text


def _mark(text: str, footnotes: dict[str, str]) -> str:
    """The mark of a footnote, the same for the same text: a, b, ..., z, aa, ab, ..."""
    if not text:
        return ""
    if text not in footnotes:
        mark, number = "", len(footnotes)
        while number >= 0:
            mark, number = chr(ord("a") + number % 26) + mark, number // 26 - 1
        footnotes[text] = mark
    return f"<sup>{footnotes[text]}</sup>"


def _place(key: Key, board: Board) -> str:
    """Subset and classifier of a column, as far as the board has several."""
    several = [part for part in ("subset", "classifier") if board.summary[part].nunique() > 1]
    return "".join(f"{escape(getattr(key, part))}, " for part in several)


def _mean_rank(board: Board, method: str) -> str:
    if method not in board.ranks.mean.index:
        return "not ranked"
    return f"{board.ranks.mean[method]:.2f} ({board.ranks.counts.loc[method].sum()})"


def _name(method: str, label: str) -> str:
    if label.lower() == method.lower():
        return escape(label)
    return f"{escape(label)}: {escape(method)}" if label else escape(method)


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _link(file: str) -> str:
    return f"[{escape(file)}]({quote(file)})"


def _table(rows: list[list[str]], header: list[str], left: int) -> str:
    align = ["left"] * left + ["right"] * (len(header) - left)
    return tabulate(rows, header, tablefmt="pipe", colalign=align, disable_numparse=True)

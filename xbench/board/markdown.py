"""A board as a markdown page (GitHub's dialect)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from xbench.board.board import Board
from xbench.board.comparing import advantage
from xbench.board.markdown_ranks import mean_rank, rank_sections
from xbench.board.markdown_trust import trust_section
from xbench.board.markup import escape, fenced, link, place, table
from xbench.board.paired import against_controls
from xbench.board.reliability import cannot_separate
from xbench.board.statistics import RESAMPLES
from xbench.board.table import NAN_LIMIT, Key
from xbench.board.text import ARROWS, HOLES, decimals, nan_note, numbers, short_names

NOTES = f"""\
- A cell is the mean over images, its 95 % interval in brackets (percentile bootstrap over images, {RESAMPLES:,} resamples), and
  the rank in bold. Behind it, where the data does not settle the rank, are the ranks that it leaves: 1 + the number of methods
  that are better with confidence, to the last rank less the number of those that are worse (Wilcoxon signed-rank tests of all
  pairs of a column on the same images, adjusted by Holm, at .05). Methods that cannot be told from the best all begin at 1.
- The interval says how far the mean depends on which images were drawn, not on seeds or training runs. Two methods whose
  intervals overlap may still differ, since they are scored on the same images.
- ↑ higher is better, ↓ lower is better; columns without an arrow are reported and not ranked.
- The best method of a column has rank 1; equal means share the smaller rank, and the next rank is left out. The mean rank is
  over the columns in which a method is ranked, their number in brackets: compare mean ranks over different columns with care.
- N/A: the metric has no value for this method. failed: it raised an error. -: not computed. None of these is ranked.
- NaN: the score is undefined for an image. The mean is over the other images; with more than {100 * NAN_LIMIT:.0f} % NaN a
  method is not ranked in that column.
- Controls never ask the classifier. They are not ranked: a score that a control reaches says nothing about the classifier.
- {{site}}, opened in a browser, is this page with tables to sort and filter, critical differences, curves, cost, every image.
- {{summary}} has every number of the scores, with medians and standard deviations over images and draws, and {{images}},
  which `xbench board` writes beside this page, every image's score.
"""
INDISTINCT = "⚠: the metric separates no two of the ranked methods on these images; its ranks are as good as drawn by lot."


def markdown(board: Board, name: str) -> str:
    """The page of a board whose files are called ``name``; links are relative to the page."""
    footnotes: dict[str, str] = {}
    controls = set(board.summary.loc[board.summary["control"], "method"])
    methods = [method for method in board.ordered if method not in controls]
    notes = NOTES.format(site=link(f"{name}.html"), summary=link(f"{name}.csv"), images=escape(f"{name}-images.csv"))
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
        *rank_sections(board, name),
        trust_section(board),
        f"## How to read this page\n\n{notes.rstrip()}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def computed_on(board: Board) -> str:
    """The subsets, classifiers and numbers of images behind a board, as a list."""
    summary = board.summary
    lines = [
        f"- Subset: {', '.join(escape(s) for s in summary['subset'].unique())}",
        f"- Classifier: {', '.join(escape(c) for c in summary['classifier'].unique())}",
    ]
    for group in dict.fromkeys(zip(summary["subset"], summary["classifier"], summary["metric"], strict=True)):
        of = [r for r in board.results if (r.subset, r.classifier, r.metric) == group and r.status == "ok"]
        counts = sorted({len(r.ids) for r in of})
        images = "no images" if not of else f"{_range(counts)} images"
        draws = sorted({(len(r.draws), len(r.draws[0])) for r in of if r.draws})
        repeats = "".join(f", {count} draws of {size}" for count, size in draws)
        unequal = ", **not the same for all methods**" if len({tuple(r.ids) for r in of}) > 1 else ""
        lines.append(f"- {place(Key(*group, ''), board)}{escape(group[2])}: {images}{repeats}{unequal}")
    return "\n".join(lines)


def main_table(board: Board, methods: list[str], footnotes: dict[str, str]) -> str:
    """Methods x columns with mean, interval and rank; reasons are added to ``footnotes`` (text to mark)."""
    labels = dict(zip(board.summary["method"], board.summary["label"], strict=True))
    header = ["method"]
    rows = [[_name(method, labels[method])] for method in methods]
    if ranked := not set(methods).isdisjoint(board.ranks.mean.index):
        header.append("mean rank")
        for row, method in zip(rows, methods, strict=True):
            row.append(mean_rank(board, method))
    for key, column in board.columns.items():
        digits = decimals(column["mean"])
        first = column.iloc[0]
        unit = f" ({escape(first.unit)})" if first.unit else ""
        header.append(f"{place(key, board)}{escape(key.metric)}<br>{escape(first.title)}{unit}{ARROWS[first.direction]}")
        if ranked and cannot_separate(board.comparisons.get(key)):
            header[-1] += f"<br>⚠ cannot tell methods apart{_mark(INDISTINCT, footnotes)}"
        for row, method in zip(rows, methods, strict=True):
            row.append(_cell(column.loc[method], digits, footnotes))
    return table(rows, header, left=1 + ranked)


def control_tables(board: Board) -> str:
    """One table per ranked column: how much better each method is than each control, paired by image."""
    paired = against_controls(board.results)
    names = short_names(board.summary)
    parts = []
    for key, column in board.columns.items():
        ours = paired[(paired[list(Key._fields)] == list(key)).all(axis=1)].set_index(["method", "other"])
        if ours.empty:
            continue
        digits = decimals(column["mean"])
        controls = [m for m in board.ordered if m in ours.index.unique("other")]
        methods = [m for m in board.ordered if m in ours.index.unique("method")]
        rows = [[escape(names[m]), *(advantage(ours.loc[(m, c)], digits) for c in controls)] for m in methods]
        title = f"{place(key, board)}{escape(key.metric)}: {escape(column.iloc[0].title)}"
        parts.append(f"{title}\n\n{table(rows, ['method', *(escape(names[c]) for c in controls)], left=1)}")
    if not parts:
        return ""
    head = (
        "### Against the controls\n\nHow much better a method scores than a control on the same images, mean and 95 % interval;"
        " positive is better in every column. Bold: better with confidence. *Slanted*: worse with confidence."
    )
    return "\n\n".join([head, *parts])


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


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _name(method: str, label: str) -> str:
    if label.lower() == method.lower():
        return escape(label)
    return f"{escape(label)}: {escape(method)}" if label else escape(method)

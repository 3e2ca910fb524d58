"""The rank matrix as a table: CSV, LaTeX and what markdown and the site show of it."""

from __future__ import annotations

import re

import pandas as pd

from xbench.board.board import Board
from xbench.board.text import clean, short_names

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def rank_frame(board: Board) -> pd.DataFrame:
    """One row per ranked method, best mean rank first.

    Columns: method, mean_rank, low and high (its 95 % interval), columns (in how many it is ranked), and how often it took
    rank_1, rank_2, ... After figure 7 of "Variational Perturbations for Visual Feature Attribution" (ICLR 2022 submission).
    """
    counts, mean = board.ranks.counts, board.ranks.mean
    intervals = board.rank_intervals.reindex(mean.index)
    table = pd.DataFrame({"method": mean.index, "mean_rank": mean.to_numpy()})
    table["low"], table["high"] = intervals["low"].to_numpy(), intervals["high"].to_numpy()
    table["columns"] = counts.sum(axis=1).to_numpy()
    return pd.concat([table, counts.reset_index(drop=True).add_prefix("rank_")], axis=1)


def rank_csv(board: Board) -> str:
    """The rank matrix as CSV, numbers with 6 significant digits."""
    return str(rank_frame(board).to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def rank_latex(board: Board) -> str:
    """The rank matrix as a LaTeX tabular for the package booktabs; its first line says so."""
    table, names = rank_frame(board), short_names(board.summary)
    counts = board.ranks.counts
    rows = [
        [tex(names[method]), f"{mean:.2f}", f"[{low:.2f}, {high:.2f}]", *map(str, counts.loc[method])]
        for method, mean, low, high in table[["method", "mean_rank", "low", "high"]].values.tolist()
    ]
    header = ["Method", "Mean rank", r"95\,\% interval", *map(str, counts.columns)]
    lines = [" & ".join(cells) + r" \\" for cells in rows]
    return "\n".join(
        [
            f"% {clean(board.title)}: how often each method took each rank. Needs \\usepackage{{booktabs}}.",
            rf"\begin{{tabular}}{{lrl{'r' * len(counts.columns)}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def tex(text: str) -> str:
    """Text on one line that LaTeX sets as it is."""
    return re.sub(r'[\\~^<>|"&%$#_{}]', lambda found: SPECIAL[found[0]], clean(text))

"""The rank matrices of a board in markdown."""

from __future__ import annotations

from urllib.parse import quote

from xbench.board.board import Board
from xbench.board.markup import escape, link, table
from xbench.board.rank_intervals import RESAMPLES
from xbench.board.text import short_names

NOTE = f"""\
Behind the mean rank its 95 % interval ({RESAMPLES:,} resamples of the images and of the columns, ranked anew each time), and in
brackets the number of columns."""


def rank_sections(board: Board, name: str) -> list[str]:
    """The section on ranks: the matrix, where a board has several benchmarks the mean ranks and the matrix of each, files."""
    if not len(board.ranks.mean):
        return ["## Ranks", "No method is ranked in any column of this board."]
    files = ", ".join(link(f"{name}-ranks.{kind}") for kind in ("svg", "csv", "tex"))
    sections = ["## Ranks", NOTE]
    if board.parts:
        sections += [benchmark_table(board), "### All benchmarks"]
    sections.append(rank_table(board))
    for title, part in board.parts.items():
        if len(part.ranks.mean):
            sections += [f"### {escape(title)}", rank_table(part)]
    return [*sections, f"![How often each method took each rank]({quote(name)}-ranks.png)", f"The same as {files}."]


def rank_table(board: Board) -> str:
    """How often each method took each rank, with its mean rank."""
    names = short_names(board.summary)
    counts = board.ranks.counts
    rows = [[escape(names[m]), mean_rank(board, m), *map(str, counts.loc[m])] for m in counts.index]
    return table(rows, ["method", "mean rank", *(f"rank {rank}" for rank in counts.columns)], left=1)


def benchmark_table(board: Board) -> str:
    """The mean rank of each method over all benchmarks and in each."""
    names = short_names(board.summary)
    boards = [board, *board.parts.values()]
    rows = [[escape(names[m]), *(mean_rank(one, m) for one in boards)] for m in board.ranks.mean.index]
    return table(rows, ["method", "all", *map(escape, board.parts)], left=1)


def mean_rank(board: Board, method: str) -> str:
    """A method's mean rank with its interval and the number of its columns."""
    if method not in board.ranks.mean.index:
        return "not ranked"
    low, high = board.rank_intervals.loc[method, ["low", "high"]]
    return f"{board.ranks.mean[method]:.2f} [{low:.2f}, {high:.2f}] ({board.ranks.counts.loc[method].sum()})"

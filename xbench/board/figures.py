"""Figures, and the rank matrix as one."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Literal

import matplotlib
from matplotlib.figure import Figure

from xbench.board.board import Board
from xbench.board.text import cut, short_names
from xbench.errors import XbenchError

CELL = 0.32
"""Inches per row and per rank."""
CROWDED = 400
"""With more cells than this the zeros, most of a large matrix, are left out."""
METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


class Picture(Figure):
    """A figure that a notebook shows, without pyplot and whatever its backend is."""

    def _repr_png_(self) -> bytes:
        return self.saved("png")

    def saved(self, kind: Literal["png", "svg"]) -> bytes:
        """The bytes of its file."""
        buffer = io.BytesIO()
        with plain():
            self.savefig(buffer, format=kind, bbox_inches="tight", facecolor="white", metadata=METADATA[kind])
        return buffer.getvalue()


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Matplotlib as it comes: the reader's own matplotlibrc must not change a picture, nor we the reader's settings."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "xbench", "font.size": 9})
        yield


def rank_figure(board: Board, kind: Literal["png", "svg"]) -> bytes:
    """The file of ``rank_picture``; the same board gives the same bytes with the same matplotlib."""
    return rank_picture(board).saved(kind)


def rank_picture(board: Board) -> Picture:
    """A heat map of how often each method (row, by mean rank) took each rank (column), with the mean rank at the right.

    After figure 7 of "Variational Perturbations for Visual Feature Attribution" (ICLR 2022 submission).

    Raises XbenchError if no method is ranked.
    """
    counts, mean = board.ranks.counts, board.ranks.mean
    if counts.empty:
        raise XbenchError("no method is ranked: there is no rank matrix to draw")
    names = short_names(board.summary)
    rows, ranks = counts.shape
    with plain():
        figure = Picture(figsize=(CELL * (ranks + 1.5), CELL * rows), dpi=150)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(counts, cmap="Blues", vmin=0, vmax=1.2 * counts.to_numpy().max(), aspect="auto")
        for row, method in enumerate(counts.index):
            for column, count in enumerate(counts.loc[method]):
                if count == 0 and counts.size > CROWDED:
                    continue
                dark = count > 0.7 * counts.to_numpy().max()
                color = "white" if dark else "0.2" if count else "0.75"
                axes.text(column, row, str(count), ha="center", va="center", color=color)
            axes.text(ranks + 0.25, row, f"{mean[method]:.2f}", ha="center", va="center")
        axes.set_xlim(-0.5, ranks + 1)
        axes.set_yticks(range(rows), [cut(names[m]) for m in counts.index], parse_math=False)
        axes.set_xticks([*range(ranks), ranks + 0.25], [*map(str, counts.columns), "mean"])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_xlabel("rank")
        axes.xaxis.set_label_position("top")
        for side in axes.spines.values():
            side.set_visible(False)
    return figure

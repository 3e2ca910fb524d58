"""A board as a piece of HTML, for a page that somebody else makes, such as a notebook."""

from __future__ import annotations

from xbench.board.board import Board
from xbench.board.site import template
from xbench.board.site_data import facts, heads, rows
from xbench.board.text import clean


def html(board: Board) -> str:
    """The table of scores: all text escaped, nothing loaded, no script, styles on its own elements only.

    Cells that failed or are missing show it, with the reason.
    """
    failed = [clean(f"{r.metric} x {r.method}: {r.reason}") for r in board.results if r.status == "failed"]
    return template("snippet.html.j2").render(
        title=clean(board.title),
        facts=facts(board),
        heads=heads(board),
        rows=rows(board),
        failed=failed,
        reproduce=board.reproduce,
    )

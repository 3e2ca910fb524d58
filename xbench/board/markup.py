"""Pieces of markdown (GitHub's dialect) that the pages of a board share."""

from __future__ import annotations

import re
from urllib.parse import quote

from tabulate import tabulate

from xbench.board.board import Board
from xbench.board.table import Key
from xbench.board.text import clean


def escape(text: str) -> str:
    """Text on one line that markdown, also inside a table, shows as it is."""
    text = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Underscores inside words mean nothing in GitHub's dialect and stay readable in the source.
    return re.sub(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", text)


def fenced(text: str) -> str:
    """A code block, fenced by more backticks than the text has in a row."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text.strip()}\n{fence}"


def place(key: Key, board: Board) -> str:
    """Subset and classifier of a column, as far as the board has several."""
    several = [part for part in ("subset", "classifier") if board.summary[part].nunique() > 1]
    return "".join(f"{escape(getattr(key, part))}, " for part in several)


def link(file: str) -> str:
    """A link to a file beside the page."""
    return f"[{escape(file)}]({quote(file)})"


def table(rows: list[list[str]], header: list[str], left: int) -> str:
    """A table whose first ``left`` columns are aligned to the left, the others to the right."""
    align = ["left"] * left + ["right"] * (len(header) - left)
    return tabulate(rows, header, tablefmt="pipe", colalign=align, disable_numparse=True)

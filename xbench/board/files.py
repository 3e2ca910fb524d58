"""The files of a board."""

from __future__ import annotations

from pathlib import Path

from xbench.board.board import Board
from xbench.board.figures import rank_figure
from xbench.board.gallery import Gallery
from xbench.board.markdown import markdown
from xbench.board.rank_tables import rank_csv, rank_latex
from xbench.board.site import page
from xbench.errors import XbenchError
from xbench.files import atomic


def write(board: Board, folder: Path, name: str, *galleries: Gallery) -> list[Path]:
    """Writes a board into ``folder`` (made if needed) and returns the paths written; the same results give the same bytes.

    ``<name>.md`` is the page, ``<name>.html`` the same with drawings, every image and the maps of ``galleries``,
    ``<name>.csv`` the summary, ``<name>-images.csv`` the score of every image (6 significant
    digits); if any method is ranked, ``<name>-ranks.png``, ``.svg``, ``.csv`` and ``.tex`` are the rank matrix, and
    ``<name>-metrics.csv`` says how far each metric can be trusted. A file appears whole or not at all.

    Raises XbenchError if a file cannot be written.
    """
    contents = {
        f"{name}.csv": board.summary.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode(),
        f"{name}-images.csv": board.images.to_csv(index=False, float_format="%.6g", na_rep="nan", lineterminator="\n").encode(),
    }
    if len(board.ranks.mean):
        contents[f"{name}-ranks.png"] = rank_figure(board, "png")
        contents[f"{name}-ranks.svg"] = rank_figure(board, "svg")
        contents[f"{name}-ranks.csv"] = rank_csv(board).encode()
        contents[f"{name}-ranks.tex"] = rank_latex(board).encode()
        trust = board.reliability.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        contents[f"{name}-metrics.csv"] = trust.encode()
    contents[f"{name}.html"] = page(board, name, *galleries).encode()
    # The page comes last: what it links to is there when it appears.
    contents[f"{name}.md"] = markdown(board, name).encode()
    return [_write(folder / file, content) for file, content in contents.items()]


def _write(path: Path, content: bytes) -> Path:
    try:
        with atomic(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise XbenchError(f"{path} cannot be written: {error.strerror}") from error
    return path

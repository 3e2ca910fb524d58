"""The notebooks run, and are committed as they ran: without errors, small, and without paths of a machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

BOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LARGEST = 500_000
"""Bytes of a notebook with its outputs."""


def code(book: Any) -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def kinds(book: Any) -> list[list[str]]:
    """Per code cell what it shows: the richest kind of each output, or the name of a stream."""
    return [[sorted(o.get("data", {o.get("name"): ""}))[0] for o in cell.outputs] for cell in code(book)]


def test_there_are_notebooks() -> None:
    assert len(BOOKS) >= 2


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path: Path) -> None:
    text = path.read_text()
    book = nbformat.reads(text, as_version=4)
    nbformat.validate(book)
    assert [cell.execution_count for cell in code(book)] == list(range(1, len(code(book)) + 1))
    assert len(text) <= LARGEST
    shown = "".join(str(cell.outputs) for cell in code(book))
    assert "Traceback" not in shown
    assert not re.search(r"(?<![\w.<])/(?:home|root|tmp|work|Users|opt|usr|var)\b", shown)


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.read(path, as_version=4)
    before = kinds(book)
    NotebookClient(book, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert kinds(book) == before

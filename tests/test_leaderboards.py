"""The published boards are what the published results give."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Outcome

BOARDS = sorted((ROOT / "leaderboards").glob("*.toml"))


def test_there_are_boards() -> None:
    assert {path.stem for path in BOARDS} >= {"robustness", "faithfulness", "sanity"}


@pytest.mark.parametrize("suite", BOARDS, ids=lambda path: path.stem)
def test_a_published_board_comes_out_of_its_results(
    xbench: Callable[..., Outcome], suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    relative = suite.relative_to(ROOT)
    done = xbench("board", "--suite", relative, "--store", "leaderboards", "--out", tmp_path)
    assert done.status == 0, done.err
    names = [
        f"{suite.stem}{end}" for end in (".md", ".html", ".csv", "-images.csv", "-ranks.csv", "-ranks.tex", "-metrics.csv")
    ]
    for name in names:
        assert (tmp_path / name).read_text() == (suite.parent / name).read_text(), name
    board = (tmp_path / names[0]).read_text()
    assert "failed" not in board.split("## How to read")[0]
    for picture in ("png", "svg"):
        assert (suite.parent / f"{suite.stem}-ranks.{picture}").exists()


def test_publish_copies_what_makes_the_board_again(xbench: Callable[..., Outcome], tmp_path: Path) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(
        'title = "T"\ndescription = "a \\"quoted\\" text"\ndataset = "mnist"\nclassifier = "mnist-cnn"\n'
        'methods = ["random", "edges"]\n[[metrics]]\nspec = "deletion"\nimages = 6\ndraws = { count = 2, size = 3 }\n'
    )
    store, to = tmp_path / "store", tmp_path / "published"
    options = ("--suite", suite, "--store", store)
    assert xbench("run", *options, "-m", "random").status == 0
    refused = xbench("publish", *options, "--to", to)
    assert refused.status == 2
    assert "is not complete" in refused.err
    assert "deletion x edges (missing)" in refused.err
    assert not to.exists()
    assert xbench("run", *options).status == 0
    # The checkout may well be in the middle of a change.
    assert xbench("publish", *options, "--to", to, "--allow-dirty").status == 0
    shutil.rmtree(store)
    again = xbench("board", "--suite", to / "mine.toml", "--store", to, "--out", tmp_path / "again")
    assert again.status == 0, again.err
    assert (tmp_path / "again" / "mine.md").read_bytes() == (to / "mine.md").read_bytes()
    assert not (to / "form.json").exists(), "a board only reads"

"""The published boards are what the published results give."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Outcome

from xbench.method import METHODS

BOARDS = sorted((ROOT / "leaderboards").glob("*.toml"))


OVERALL = ("faithfulness", "localisation", "robustness", "sanity", "efficiency")
ENDS = (".md", ".html", ".csv", "-ranks.csv", "-ranks.tex", "-metrics.csv")


def test_there_are_boards() -> None:
    assert {path.stem for path in BOARDS} == {*OVERALL, "photos"}


def same(made: Path, published: Path, name: str) -> None:
    """The files of a board are those that are published, but for how another version compresses a picture."""
    for end in ENDS:
        texts = [(folder / f"{name}{end}").read_text() for folder in (made, published)]
        first, second = (re.sub('"data:image/png;base64,[^"]*"', '"picture"', text) for text in texts)
        assert first == second, f"{name}{end}"
    for picture in ("png", "svg"):
        assert (published / f"{name}-ranks.{picture}").exists()


@pytest.mark.parametrize("suite", BOARDS, ids=lambda path: path.stem)
def test_a_published_board_comes_out_of_its_results(
    xbench: Callable[..., Outcome], suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    relative = suite.relative_to(ROOT)
    done = xbench("board", "--suite", relative, "--store", "leaderboards", "--out", tmp_path)
    assert done.status == 0, done.err
    same(tmp_path, suite.parent, suite.stem)
    assert "failed" not in (tmp_path / f"{suite.stem}.md").read_text().split("## How to read")[0]
    assert '<section id="gallery">' in (tmp_path / f"{suite.stem}.html").read_text()


def test_the_board_of_all_boards_comes_out_of_their_results(
    xbench: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    suites = [word for name in OVERALL for word in ("--suite", f"leaderboards/{name}.toml")]
    done = xbench("board", *suites, "--store", "leaderboards", "--out", tmp_path)
    assert done.status == 0, done.err
    same(tmp_path, ROOT / "leaderboards", "overall")


def test_publish_copies_what_makes_the_board_again(
    xbench: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(
        'title = "T"\ndescription = "a \\"quoted\\" text"\ndataset = "mnist"\nclassifier = "mnist-cnn"\n'
        'methods = ["random", "edges", "vp"]\n[[metrics]]\nspec = "deletion"\nimages = 6\ndraws = { count = 2, size = 3 }\n'
        '[[metrics]]\nspec = "efficiency"\nimages = 2\n'
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
    assert not (to / "maps").exists()
    assert len(list((to / "gallery").rglob("*.png"))) == 4, "one picture per method, and the uncertainty of vp"
    # On another machine the times are those of the first.
    monkeypatch.setattr("xbench.run.plan.hardware", lambda _: {"device": "cpu", "name": "another", "threads": "1000"})
    monkeypatch.setattr(type(METHODS.make("vp")), "explain", None)  # nor is anything explained again
    again = xbench("board", "--suite", to / "mine.toml", "--store", to, "--out", tmp_path / "again")
    assert again.status == 0, again.err
    for end in (".md", ".html"):
        assert (tmp_path / "again" / f"mine{end}").read_bytes() == (to / f"mine{end}").read_bytes()
    assert (to / "mine.html").read_text().count('alt="map of ') == 3 * 2
    assert not (to / "form.json").exists(), "a board only reads"

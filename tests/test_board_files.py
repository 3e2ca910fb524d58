"""The files of a board: page, tables, figures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from board_results import LIPSCHITZ, RAW, SSIM, board, result, robustness

from xbench.board import figures, terminal, write
from xbench.board.markdown import markdown
from xbench.board.markup import escape, fenced
from xbench.errors import XbenchError
from xbench.result import Result

HOSTILE = 'a|b`c\n# d <script>alert(1)</script> \\| __e__ f_g *h* [i](j) $k$ ~l~ &lt; "m" \x1b[31m'


def cells(line: str) -> list[str]:
    """The cells of a table's line: split at pipes that no backslash escapes, as GitHub does."""
    return [cell.strip() for cell in re.findall(r"((?:\\.|[^|\\])*)\|", line)[1:]]


def shown(text: str) -> str:
    """What a reader sees of escaped text."""
    text = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def test_hostile_names_stay_text() -> None:
    made = board(
        [result(HOSTILE, [1.0, 2.0], reason="x"), result("b", status="failed", reason=HOSTILE, label=HOSTILE)], title=HOSTILE
    )
    page = markdown(made, "b")
    visible = " ".join(HOSTILE.replace("\x1b", " ").split())
    assert shown(escape(HOSTILE)) == visible
    assert escape("f_g(n_steps=1)") == "f_g(n_steps=1)"
    assert set(re.findall(r"<[^>]*>", page)) <= {"<br>", "<sup>", "</sup>"}
    tables = [block for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        lines = table.splitlines()
        assert len({len(cells(line)) for line in lines}) == 1
    for table in tables[:2]:
        assert any(visible == shown(cells(line)[0]) for line in table.splitlines())
    assert page.splitlines()[0] == f"# {escape(HOSTILE)}"
    assert "\x1b" not in page + terminal.text(made)


@pytest.mark.parametrize("command", ["xbench run", "echo ```\n```` x"])
def test_a_code_block_ends_where_it_should(command: str) -> None:
    first, *inside, last = fenced(command).splitlines()
    assert "\n".join(inside) == command
    assert first == last
    assert set(first) == {"`"}
    assert all(first not in line for line in inside)


def test_page_says_what_it_was_computed_on() -> None:
    made = board(robustness(), description="Do maps *stay*?", reproduce="xbench run --suite robustness")
    page = markdown(made, "robust ness")
    assert page.startswith(
        "# Test\n\nDo maps *stay*?\n\n- Subset: mnist\n- Classifier: mnist-cnn\n- consistency: 40 images, 2 draws of 3\n"
    )
    assert "```\nxbench run --suite robustness\n```" in page
    assert "consistency<br>PSNR (dB) ↑" in page
    assert "stability<br>local Lipschitz ↓" in page
    assert "stability<br>raw maps |" in page
    assert re.search(r"\| \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\] \*\*\(\d\)\*\*( \d-\d)? \|", page)
    assert "1 of 40 NaN" in page
    assert page.count("N/A<sup>b</sup>") == 3
    assert page.count("<sup>b</sup> N/A: no mask grid") == 1
    assert page.count("failed<sup>") == 2
    assert "failed: RuntimeError: a \\| b" in page
    assert page.split("## Ranks")[0].count(" - |") == 3
    assert "(robust%20ness-ranks.png)" in page
    main, controls = page.split("### Controls")
    assert "edges" not in main
    assert "edges" in controls
    table = [cells(line)[0] for line in main.splitlines() if line.startswith("| method-")]
    assert table == made.ordered[:9]


def test_a_method_is_called_by_its_label_where_that_is_clear() -> None:
    specs = {"vp": "VP", "sliding-patch": "SP", "mp": "MP", "mp(steps=9)": "MP", "own": ""}
    page = markdown(board([result(spec, [0.1], label=label) for spec, label in specs.items()]), "b")
    scores, ranks = (
        [cells(line)[0] for line in page.splitlines() if line.startswith("|")][2:7] for page in page.split("## Ranks")
    )
    assert sorted(scores) == ["MP", "MP: mp(steps=9)", "SP: sliding-patch", "VP", "own"]
    assert sorted(ranks) == ["MP", "MP(steps=9)", "SP", "VP", "own"]


def test_methods_on_different_images_are_pointed_out() -> None:
    page = markdown(board([result("a", [1.0, 2.0]), result("b", [1.0, 2.0, 3.0])]), "b")
    assert "- consistency: 2 to 3 images, **not the same for all methods**" in page


def test_small_and_large_numbers_keep_their_digits() -> None:
    columns = (SSIM, RAW, LIPSCHITZ)
    scores = {"big": ([12.3456] * 2, [1234.5] * 2, [2e-4] * 2), "tiny": ([-1e-5] * 2, [-20.2, 20.0], [3e-5] * 2)}
    page = markdown(board([result(m, *v, columns=columns) for m, v in scores.items()]), "b")
    assert "12.35 [12.35, 12.35]" in page
    assert "1234 [1234, 1234]" in page
    assert "0.000200 [0.000200, 0.000200]" in page
    assert "-1.0e-05 [-1.0e-05, -1.0e-05]" in page
    assert "0.000030 [" in page
    assert " 0 [-20, 20]" in page


@pytest.mark.parametrize(
    "results",
    [
        [result("a", [1.0, 2.0], columns=(RAW,))],
        [result("random", [1.0, 2.0], control=True)],
        [result("a", status="missing"), result("b", status="failed")],
    ],
)
def test_a_board_without_ranks_says_so(results: list[Result], tmp_path: Path) -> None:
    made = board(results)
    paths = write(made, tmp_path, "b")
    assert [path.name for path in paths] == ["b.csv", "b-images.csv", "b.html", "b.md"]
    page = paths[-1].read_text()
    assert "No method is ranked in any column of this board." in page
    assert "png" not in page
    assert results[0].method in terminal.text(made)
    with pytest.raises(XbenchError, match="no method is ranked"):
        figures.rank_figure(made, "png")


def test_a_board_of_one_method_is_written(tmp_path: Path) -> None:
    paths = write(board([result("a", [1.0])]), tmp_path, "b")
    assert len(paths) == 9
    assert "1.000 [1.000, 1.000] **(1)**" in paths[-1].read_text()


def test_files_are_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    write(board(robustness()), tmp_path / "here", "b")
    code = "import sys; from test_board_files import *; write(board(robustness()), Path(sys.argv[1]), 'b'); print(*sys.modules)"
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    arguments = [sys.executable, "-c", code, str(tmp_path / "there")]
    loaded = subprocess.run(arguments, check=True, env=env, capture_output=True, text=True).stdout.split()
    assert "matplotlib.figure" in loaded
    assert "matplotlib.pyplot" not in loaded
    here = {p.name: p.read_bytes() for p in (tmp_path / "here").iterdir()}
    there = {p.name: p.read_bytes() for p in (tmp_path / "there").iterdir()}
    assert sorted(here) == sorted(
        f"b{end}"
        for end in (
            ".csv",
            ".html",
            ".md",
            "-images.csv",
            "-metrics.csv",
            *(f"-ranks.{k}" for k in ("csv", "png", "svg", "tex")),
        )
    )
    assert here == there


def test_tables_can_be_read_back(tmp_path: Path) -> None:
    made = board(robustness())
    write(made, tmp_path, "b")
    images = pd.read_csv(tmp_path / "b-images.csv", dtype={"image": str})
    np.testing.assert_allclose(images["value"], made.images["value"].astype(float), rtol=5e-6)
    assert (tmp_path / "b-images.csv").read_text().count(",nan\n") == images["value"].isna().sum() == 3
    assert images["image"].tolist() == made.images["image"].tolist()
    summary = pd.read_csv(tmp_path / "b.csv", keep_default_na=False, na_values=[""])
    for name in ("mean", "low", "high", "std", "draws_std", "nan_share", "rank", "n"):
        np.testing.assert_array_equal(summary[name], made.summary[name].astype(float).to_numpy())
    assert summary["status"].tolist() == made.summary["status"].tolist()


def test_writing_where_one_cannot_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(XbenchError, match=r"b\.csv cannot be written"):
        write(board([result("a", [1.0])]), tmp_path / "file", "b")
    (tmp_path / "b.md").mkdir()
    with pytest.raises(XbenchError, match=r"b\.md cannot be written"):
        write(board([result("a", [1.0])]), tmp_path, "b")
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_figures_neither_read_nor_change_the_settings() -> None:
    made = board(robustness())
    expected = figures.rank_figure(made, "svg")
    with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        assert figures.rank_figure(made, "svg") == expected
        assert dict(matplotlib.rcParams) == before


def test_figure_shows_all_methods_and_counts() -> None:
    made = board(robustness())
    drawn = ET.fromstring(figures.rank_figure(made, "svg"))
    assert drawn.tag.endswith("svg")
    comments = re.findall(r"<!-- (.*?) -->", figures.rank_figure(made, "svg").decode())
    assert [c for c in comments if c.startswith("method-")] == list(made.ranks.mean.index)
    assert comments.count("0") == (made.ranks.counts == 0).to_numpy().sum()


@pytest.mark.parametrize("methods", [1, 5, 40])
def test_figure_has_a_sensible_size(methods: int, tmp_path: Path) -> None:
    made = board([result(rf"$\frac{i}$<{i}", [float(i)], label="$") for i in range(methods)])
    (tmp_path / "f.png").write_bytes(figures.rank_figure(made, "png"))
    picture = matplotlib.image.imread(tmp_path / "f.png")
    height, width = picture.shape[:2]
    assert 48 * methods < height < 48 * methods + 100
    assert width < 48 * methods + 300
    assert (picture[-1, :, :3] > 0.97).all()

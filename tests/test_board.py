"""What a board says of its results: who is ranked, holes, NaN, and how the command line shows it."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from board_results import LIPSCHITZ, RAW, SSIM, board, result, robustness

from xbench.board import Board, terminal
from xbench.board.markdown import markdown
from xbench.errors import XbenchError
from xbench.metric import Column
from xbench.result import Result


def row(made: Board, method: str, column: str = "ssim") -> pd.Series:
    table = made.summary
    return table[(table["method"] == method) & (table["column"] == column)].iloc[0]


def test_the_spread_of_the_draws_is_kept() -> None:
    made = board([result("vp", [1.0, 2.0, 3.0, 4.0], draws=[[0, 1], [2, 3]]), result("nvp", [1.0, 2.0, 3.0, 4.0])])
    assert row(made, "vp")["draws_std"] == pytest.approx(math.sqrt(2), rel=1e-5)
    assert math.isnan(row(made, "nvp")["draws_std"])


def test_controls_are_shown_and_never_ranked() -> None:
    results = [result("vp", [0.5, 0.6]), result("random", [0.9, 0.9], control=True), result("mp", [0.2, 0.3])]
    made = board([*results, result("unranked", status="failed")])
    assert {m: row(made, m)["rank"] for m in ("vp", "mp")} == {"vp": 1, "mp": 2}
    assert pd.isna(row(made, "random")["rank"])
    assert row(made, "random")["mean"] == 0.9
    assert "random" not in made.ranks.counts.index
    assert made.ordered == ["vp", "mp", "unranked", "random"]


def test_above_five_percent_nan_a_method_is_not_ranked() -> None:
    good = [0.5] * 40
    at, above = [math.nan] * 2 + [0.9] * 38, [math.nan] * 3 + [0.9] * 37
    made = board([result("good", good), result("at", at), result("above", above)])
    assert row(made, "at")["rank"] == 1
    assert row(made, "good")["rank"] == 2
    assert pd.isna(row(made, "above")["rank"])
    assert row(made, "above")["nan_share"] == 0.075
    assert row(made, "above")["mean"] == 0.9
    assert row(made, "above")["reason"] == "constant map"
    page = markdown(made, "b")
    assert "0.900 [0.900, 0.900] 3 of 40 NaN<sup>a</sup>" in page
    assert page.count("NaN: constant map") == 1


def test_columns_without_direction_and_holes_are_not_ranked() -> None:
    columns = (LIPSCHITZ, RAW)
    made = board(
        [
            result("a", [1.0, 2.0], [1.0, 2.0], columns=columns),
            result("b", [0.0, 1.0], [3.0, 4.0], columns=columns),
            result("c", columns=columns, status="failed", reason="ValueError: no"),
            result("d", columns=columns, status="n/a", reason="no grid"),
            result("e", columns=columns, status="missing"),
            result("f", [1.0, 2.0], metric="other"),
        ]
    )
    assert [row(made, m, "lipschitz")["rank"] for m in "ab"] == [2, 1]
    assert made.summary.loc[made.summary["column"] == "raw", "rank"].isna().all()
    assert [row(made, m, "lipschitz")["status"] for m in "cdef"] == ["failed", "n/a", "missing", "missing"]
    assert made.summary.loc[made.summary["status"] != "ok", ["rank", "mean", "n"]].isna().all(axis=None)
    assert made.ordered == ["b", "f", "a", "c", "d", "e"]


def test_rounding_noise_separates_no_methods() -> None:
    made = board([result("a", [0.5, 0.5]), result("b", [0.5, 0.5 + 1e-9]), result("c", [0.5, 0.50001])])
    assert [row(made, m)["rank"] for m in "abc"] == [2, 2, 1]


def test_columns_of_several_subsets_are_kept_apart() -> None:
    made = board(
        [result(m, [v, v], subset=s) for s, m, v in [("x", "a", 1.0), ("x", "b", 2.0), ("y", "a", 4.0), ("y", "b", 3.0)]]
    )
    assert made.ranks.counts.loc["a"].tolist() == made.ranks.counts.loc["b"].tolist() == [1, 1]
    page = markdown(made, "b")
    assert "x, consistency<br>SSIM ↑" in page
    assert "y, consistency<br>SSIM ↑" in page
    assert "mnist-cnn, consistency" not in page


def test_images_are_listed_with_their_scores() -> None:
    made = board(
        [result("a", [1.0, math.nan], [3.0, 4.0], columns=(SSIM, RAW)), result("b", columns=(SSIM, RAW), status="missing")]
    )
    values = made.images[["method", "metric", "column", "image", "value"]].values.tolist()
    assert values[0] == ["a", "consistency", "ssim", "0000", 1.0]
    assert math.isnan(values[1][-1])
    assert [v[2:] for v in values[2:]] == [["raw", "0000", 3.0], ["raw", "0001", 4.0]]
    assert board([result("b", status="missing")]).images.empty


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "at least one result"),
        ([result("a", [1.0]), result("a", [2.0])], "consistency x a on mnist x mnist-cnn is there twice"),
        ([result("a", [1.0]), result("b", [2.0], columns=(Column("ssim", "SSIM", False),))], "declared otherwise"),
        ([result("a", [1.0, 2.0], [1.0], columns=(SSIM, RAW))], "column 'raw' has 1 scores for 2 images"),
        ([result("a", [])], "column 'ssim' has 0 scores for 0 images"),
    ],
)
def test_results_that_make_no_board_are_refused(results: list[Result], message: str) -> None:
    with pytest.raises(XbenchError, match=message):
        board(results)


def test_terminal_is_narrow_and_complete() -> None:
    made = board(robustness())
    lines = terminal.text(made).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("method  ") for line in lines) == 3
    best = made.ordered[0]
    assert any(line.split()[:2] == [best, f"{made.ranks.mean[best]:.2f}"] for line in lines)
    assert any(line.split() == ["method-1", f"{made.ranks.mean['method-1']:.2f}", "N/A", "N/A", "N/A"] for line in lines)
    assert any(line.split()[:2] == ["random", "control"] for line in lines)
    small = terminal.text(board([result("a" * 59 + "b", [0.25, 0.25])])).splitlines()
    assert any(line.split() == ["a" * 18 + "…" + "a" * 16 + "b", "1.00", "0.250", "1"] for line in small)


def test_a_metric_with_many_columns_is_split() -> None:
    columns = tuple(Column(f"a-long-column-name-{i}", "x", True) for i in range(9))
    made = board([result("vp", *[[0.5, 0.7]] * 9, columns=columns)])
    found = terminal.text(made)
    assert max(map(len, found.splitlines())) <= 100
    assert all(column.name in found for column in columns)

"""How much better methods are than controls, against a plain bootstrap and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from board_results import LIPSCHITZ, RAW, SSIM, board, result

from xbench.board.comparing import methods_table
from xbench.board.markdown import control_tables, markdown
from xbench.board.paired import against_controls
from xbench.board.statistics import positions


def test_it_is_the_paired_difference_with_the_sign_of_the_column() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(1, 1, 30), random.normal(0.5, 1, 30)
    columns = (SSIM, LIPSCHITZ, RAW)
    table = against_controls(
        [
            result("mine", ours.tolist(), ours.tolist(), ours.tolist(), columns=columns),
            result("ink", theirs.tolist(), theirs.tolist(), theirs.tolist(), columns=columns, control=True),
        ]
    )
    assert table[["column", "method", "other"]].to_numpy().tolist() == [["ssim", "mine", "ink"], ["lipschitz", "mine", "ink"]]
    difference = ours - theirs
    means = np.concatenate([difference[chunk].mean(1) for chunk in positions(30)])
    up, down = table.iloc[0], table.iloc[1]
    assert up["mean"] == pytest.approx(difference.mean())
    assert [up.low, up.high] == pytest.approx(np.quantile(means, [0.025, 0.975]))
    assert [down["mean"], down.low, down.high] == pytest.approx([-up["mean"], -up.high, -up.low])
    assert up.n == 30


def test_pairs_narrow_the_interval() -> None:
    """A method that is always 0.1 ahead is so with certainty, however much the images differ."""
    ink = np.random.default_rng(0).normal(0, 10, 20)
    row = against_controls([result("mine", (ink + 0.1).tolist()), result("ink", ink.tolist(), control=True)]).iloc[0]
    assert [row.low, row["mean"], row.high] == pytest.approx([0.1, 0.1, 0.1])


def test_images_without_both_scores_do_not_count_and_other_images_make_no_pair() -> None:
    nan = float("nan")
    other = result("other", [1.0, 2.0, 3.0])
    other.ids[0] = "9999"
    ink = result("ink", [0.0, 0.0, nan], control=True)
    table = against_controls([result("mine", [1.0, nan, 3.0]), other, result("failed", status="failed"), ink])
    assert table["method"].tolist() == ["mine"]
    assert table["n"].tolist() == [1]
    assert table["mean"].tolist() == [1.0]


def test_the_page_marks_what_is_certain() -> None:
    made = board(
        [
            result("ahead", [1.0, 1.1, 1.2]),
            result("behind", [-1.0, -1.1, -1.2]),
            result("level", [-1.0, 0.0, 1.0]),
            result("ink", [0.0, 0.0, 0.0], control=True),
        ]
    )
    text = control_tables(made)
    rows = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in text.splitlines() if line.startswith("| ")}
    assert rows["ahead"].startswith("**1.1")
    assert rows["behind"].startswith("*-1.1")
    assert rows["level"] == "0.000 [-1.000, 1.000]"
    assert text in markdown(made, "x")
    assert control_tables(board([result("mine", [1.0, 2.0])])) == ""


def test_two_methods_side_by_side() -> None:
    nan = float("nan")
    made = board(
        [
            result("a", [1.0, 2.0, nan], metric="one"),
            result("b", [0.5, 1.5, 9.0], metric="one"),
            result("a", [1.0, 1.0], columns=(LIPSCHITZ,), metric="two"),
            result("b", [0.0, 0.0], columns=(LIPSCHITZ,), metric="two"),
            result("a", status="n/a", metric="three"),
            result("b", [0.0, 0.0], metric="three"),
        ]
    )
    _, _, first, second = methods_table(made, "a", "b").splitlines()
    assert [cell.strip() for cell in first.split("|")[1:-1]] == [
        "one: SSIM ↑", "1.500", "3.667", "**0.500 [0.500, 0.500]**", "2",
    ]  # fmt: skip
    assert [cell.strip() for cell in second.split("|")[2:-1]] == ["1.000", "0.000", "*-1.000 [-1.000, -1.000]*", "2"]

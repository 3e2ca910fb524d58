"""Published numbers: what ships is what the golden tables say, and how ours stand beside it."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from board_results import board, result

from xbench.board.papers import against_papers, published
from xbench.board.rank_tables import rank_csv, rank_frame, rank_latex, tex
from xbench.board.ranks import competition_ranks, rank_matrix
from xbench.errors import XbenchError
from xbench.method import METHODS
from xbench.metric import METRICS, Column

GOLDEN = Path(__file__).parent / "golden"


def shipped(title: str, metric: str) -> pd.DataFrame:
    """The tables of a paper for one metric, methods x (table, data set)."""
    tables = [one for one in published() if one.paper.startswith(title) and one.metric == metric]
    return pd.concat([pd.DataFrame(one.values, index=one.datasets).T.add_prefix(f"{one.title} ") for one in tables], axis=1)


@pytest.mark.parametrize(
    ("golden", "metric"), [("vp-consistency", "consistency"), ("vp-stability", "stability"), ("vp-perturbation", "area")]
)
def test_the_shipped_tables_are_the_golden_ones(golden: str, metric: str) -> None:
    expected = pd.read_csv(GOLDEN / f"{golden}.csv", comment="#", index_col="method")
    found = shipped("Variational", metric).loc[expected.index]
    assert found.to_numpy() == pytest.approx(expected.to_numpy(), nan_ok=True)


def test_the_shipped_tables_give_the_published_rank_matrix() -> None:
    values = shipped("Variational", "consistency")
    matrix = rank_matrix(competition_ranks(values, [True] * values.shape[1]))
    assert matrix.counts.loc["VP"].tolist()[:2] == [6, 3]
    assert matrix.mean["EP"] == pytest.approx(2.556, abs=5e-4)


def test_every_table_names_an_existing_column_and_direction() -> None:
    for one in published():
        columns = {column.name: column for column in METRICS.get(one.metric).columns}
        assert one.column in columns, one
        assert columns[one.column].higher_is_better in (one.higher_is_better, None)
        for spec in one.specs.values():
            name = spec.partition("(")[0]
            if name in METHODS.names():
                METHODS.make(spec)


def test_our_numbers_stand_beside_the_published_ones() -> None:
    auc = (Column("auc", "Deletion", False),)
    scores = {"sliding-patch": 0.3, "lime": 0.1, "mp": 0.2, 'lime(fill="inpaint")': 0.05, "mp2": math.nan}
    made = board([result(m, [v] * 4, columns=auc, metric="deletion") for m, v in scores.items()], reproduce="xbench run")
    text = against_papers(made)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "| SP | 0.300 [0.300, 0.300] | 0.1996 | 0.256 |" in lines
    assert "| MP2 | NaN | 0.153 | 0.198 |" in lines
    assert "| SP-G | not on this board | 0.1769 | 0.1944 |" in lines
    # By hand: on ImageNet and Places365 the four methods are in the same order as here.
    assert "| agreement with ours | | 1.00 (4 methods) | 1.00 (4 methods) |" in lines
    assert "DeepFill" in text
    assert "xbench run" in text


def test_percent_are_compared_with_percent() -> None:
    error = (Column("error", "Localisation error", False),)
    made = board([result(m, [0.0, 1.0], columns=error, metric="localisation") for m in ("lime", "mp", "mp2")])
    assert "| LIME | 50.00 [0.00, 100.00] | 28.05 |" in [" ".join(line.split()) for line in against_papers(made).splitlines()]


def test_a_board_of_other_metrics_is_refused() -> None:
    with pytest.raises(XbenchError, match=r"no published table shares .* area \(kl_over_K\)"):
        against_papers(board([result("a", [1.0], metric="own")]))


def test_rank_matrix_as_csv_and_latex() -> None:
    made = board([result(m, [v] * 5) for m, v in (("a_b&c", 1.0), ("x", 2.0))], title="T\n\\input{x}")
    frame = rank_frame(made)
    assert frame[["method", "mean_rank", "low", "high", "columns", "rank_1", "rank_2"]].to_numpy().tolist() == [
        ["x", 1.0, 1.0, 1.0, 1, 1, 0],
        ["a_b&c", 2.0, 2.0, 2.0, 1, 0, 1],
    ]
    assert rank_csv(made).splitlines()[1] == "x,1,1,1,1,1,0"
    lines = rank_latex(made).splitlines()
    assert lines[0].startswith("% T \\input{x}:")
    assert lines[5] == r"x & 1.00 & [1.00, 1.00] & 1 & 0 \\"
    assert lines[6] == r"a\_b\&c & 2.00 & [2.00, 2.00] & 0 & 1 \\"
    assert tex("\\~^{}%$#<|>") == (
        r"\textbackslash{}\textasciitilde{}\textasciicircum{}\{\}\%\$\#\textless{}\textbar{}\textgreater{}"
    )


def test_a_board_of_several_benchmarks_has_the_ranks_of_each() -> None:
    from xbench.board import make_board
    from xbench.board.markdown import markdown

    one = [result(m, [v] * 5, metric="one") for m, v in (("a", 1.0), ("b", 2.0))]
    two = [result(m, [v] * 5, metric="two") for m, v in (("a", 3.0), ("b", 2.0))]
    made = make_board([*one, *two], "Overall", benchmarks={"First": one, "Second": two})
    assert {name: part.ranks.mean.to_dict() for name, part in made.parts.items()} == {
        "First": {"b": 1.0, "a": 2.0},
        "Second": {"a": 1.0, "b": 2.0},
    }
    assert made.ranks.mean.to_dict() == {"a": 1.5, "b": 1.5}
    page = [" ".join(line.split()) for line in markdown(made, "overall").splitlines()]
    assert "| a | 1.50 [1.00, 2.00] (2) | 2.00 [2.00, 2.00] (1) | 1.00 [1.00, 1.00] (1) |" in page
    assert "### First" in page

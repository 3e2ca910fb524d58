"""Statistics and ranks of boards against slow references and published tables."""

from __future__ import annotations

import math
import statistics as plain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from xbench.board import statistics
from xbench.board.ranks import competition_ranks, rank_matrix
from xbench.board.statistics import describe, draws_std, positions

GOLDEN = Path(__file__).parent / "golden"


def test_statistics_equal_a_slow_loop() -> None:
    values = np.random.default_rng(0).exponential(size=(2, 9))
    values[1, 3] = np.nan
    found = describe(values)
    for s, scores in enumerate(values.tolist()):
        finite = [v for v in scores if not math.isnan(v)]
        resampled = []
        for drawn in np.concatenate(list(positions(9))).tolist():
            some = [scores[i] for i in drawn if not math.isnan(scores[i])]
            if some:
                resampled.append(sum(some) / len(some))
        resampled.sort()

        def quantile(q: float, ordered: list[float] = resampled) -> float:
            at = q * (len(ordered) - 1)
            below = ordered[math.floor(at)]
            return below + (at - math.floor(at)) * (ordered[math.ceil(at)] - below)

        assert found.mean[s] == pytest.approx(plain.mean(finite), rel=1e-12)
        assert found.std[s] == pytest.approx(plain.stdev(finite), rel=1e-12)
        assert found.nan_share[s] == pytest.approx(1 - len(finite) / 9)
        assert found.low[s] == pytest.approx(quantile(0.025), rel=1e-12)
        assert found.high[s] == pytest.approx(quantile(0.975), rel=1e-12)


def test_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=60)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, random_state=np.random.default_rng(9)
    )
    ours = describe(values[None])
    error = values.std() / math.sqrt(60)
    assert ours.low[0] == pytest.approx(theirs.confidence_interval.low, abs=0.1 * error)
    assert ours.high[0] == pytest.approx(theirs.confidence_interval.high, abs=0.1 * error)


def test_interval_of_a_constant_is_the_constant() -> None:
    found = describe(np.array([[0.1] * 7, [1e6] * 7, [-3.0] * 7]))
    for values in (found.mean, found.low, found.high):
        np.testing.assert_allclose(values, [0.1, 1e6, -3.0], rtol=1e-14)
    np.testing.assert_allclose(found.std, 0, atol=1e-14)


def test_interval_covers_the_true_mean_of_normal_data() -> None:
    found = describe(np.random.default_rng(2).normal(5.0, 2.0, (500, 80)))
    assert 0.92 < ((found.low < 5) & (found.high > 5)).mean() < 0.97


def test_interval_keeps_its_digits_beside_a_large_mean() -> None:
    values = np.random.default_rng(4).normal(size=(1, 30))
    near, far = describe(values), describe(values + 1e9)
    assert far.low[0] - 1e9 == pytest.approx(near.low[0], abs=1e-6)


def test_all_methods_are_resampled_at_the_same_images() -> None:
    values = np.random.default_rng(5).normal(size=(1, 20))
    together, alone = describe(np.concatenate([values, 2 * values + 1])), describe(values)
    np.testing.assert_allclose(together.low, [alone.low[0], 2 * alone.low[0] + 1], rtol=1e-12)
    np.testing.assert_allclose(together.high, [alone.high[0], 2 * alone.high[0] + 1], rtol=1e-12)


def test_chunks_bound_memory_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(positions(7)))
    monkeypatch.setattr(statistics, "CHUNK", 700)
    chunks = list(positions(7))
    assert {len(chunk) for chunk in chunks} == {100}
    np.testing.assert_array_equal(np.concatenate(chunks), whole)
    assert whole.shape == (statistics.RESAMPLES, 7)
    assert (whole.min(), whole.max()) == (0, 6)


def test_nan_and_infinity_are_counted_and_left_out() -> None:
    found = describe(np.array([[1.0, np.nan, 3.0, np.inf], [np.nan] * 4, [np.nan, np.nan, 7.0, np.nan]]))
    np.testing.assert_array_equal(found.nan_share, [0.5, 1.0, 0.75])
    np.testing.assert_array_equal(found.mean, [2.0, np.nan, 7.0])
    np.testing.assert_array_equal([found.low[1], found.high[1], found.std[1], found.std[2]], np.nan)
    assert (found.low[2], found.high[2]) == (7.0, 7.0)
    assert found.low[0] == 1.0
    assert found.high[0] == 3.0


def test_spread_of_the_draws() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
    assert draws_std(values, [[0, 1], [2, 3], [1, 4]]) == pytest.approx(plain.stdev([1.5, 3.5, 2.0]))
    assert math.isnan(draws_std(values, []))
    assert math.isnan(draws_std(values, [[0, 1]]))
    assert math.isnan(draws_std(values, [[0, 1], [4]]))


# -- ranks -------------------------------------------------------------------------------------------------------------


def test_ranks_equal_a_slow_count() -> None:
    values = np.random.default_rng(6).integers(0, 5, (8, 6)).astype(float)
    values[values == 4] = np.nan
    ups = [True, False, True, False, True, False]
    ranks = competition_ranks(pd.DataFrame(values), ups).to_numpy()
    for c, up in enumerate(ups):
        for m, value in enumerate(values[:, c]):
            if math.isnan(value):
                assert math.isnan(ranks[m, c])
            else:
                assert ranks[m, c] == 1 + sum((other > value) if up else (other < value) for other in values[:, c])


def test_ties_share_the_smallest_rank() -> None:
    values = pd.DataFrame({"a": [3.0, 5.0, 3.0, np.nan, 1.0]}, index=list("vwxyz"))
    assert competition_ranks(values, [True])["a"].dropna().to_dict() == {"v": 2, "w": 1, "x": 2, "z": 4}
    assert competition_ranks(values, [False])["a"].dropna().to_dict() == {"v": 2, "w": 4, "x": 2, "z": 1}


@pytest.mark.parametrize(
    ("table", "up", "counts", "means"),
    [
        (
            "vp-consistency",
            True,
            {"VP": [6, 3], "EP": [3, 2, 2, 0, 2], "RISE": [0, 2, 0, 1, 0, 2, 4]},
            {"VP": 1.333, "EP": 2.556, "nVP": 3.667},
        ),
        (
            "vp-perturbation",
            True,
            {"VP": [6, 2, 1], "nVP": [2, 1, 1, 2, 1, 2], "MP": [3, 1, 0, 2, 0, 1, 2]},
            {},
        ),
        # Counted by hand from table 2, where lower is better.
        ("vp-stability", False, {"RISE": [2, 0, 1], "VP": [1, 1, 1], "nVP": [0, 1, 1, 1]}, {"RISE": 1.667, "VP": 2.0}),
    ],
)
def test_published_tables_give_the_published_rank_matrix(
    table: str, up: bool, counts: dict[str, list[int]], means: dict[str, float]
) -> None:
    """Figure 7 of "Variational Perturbations for Visual Feature Attribution" (ICLR 2022 submission)."""
    values = pd.read_csv(GOLDEN / f"{table}.csv", comment="#", index_col="method")
    matrix = rank_matrix(competition_ranks(values, [up] * values.shape[1]))
    for method, expected in counts.items():
        found = matrix.counts.loc[method].tolist()
        assert found == expected + [0] * (len(found) - len(expected))
    for method, mean in means.items():
        assert matrix.mean[method] == pytest.approx(mean, abs=5e-4)
    assert list(matrix.counts.index) == list(matrix.mean.index)
    assert matrix.mean.is_monotonic_increasing


def test_rank_matrix_of_nothing_is_empty() -> None:
    nothing = rank_matrix(pd.DataFrame({"a": [np.nan, np.nan]}))
    assert nothing.counts.empty
    assert nothing.mean.empty

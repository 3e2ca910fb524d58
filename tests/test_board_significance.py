"""Friedman, Nemenyi, Wilcoxon and Holm against scikit-posthocs, scipy and enumeration; ranks that the data leaves open."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
import scipy.stats
from board_results import LIPSCHITZ, SSIM, board, result

from xbench.board.markdown import markdown
from xbench.board.rank_intervals import mean_rank_intervals
from xbench.board.significance import compare, critical_difference, friedman, holm, signed_rank


def scores(methods: int = 6, images: int = 40, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(0, 1, (methods, images)) + random.normal(0, 1, images) + np.linspace(0, 1.2, methods)[:, None]


NAMES = tuple("abcdef")


def test_friedman_equals_scipy_with_and_without_ties() -> None:
    for values in (scores(), np.round(scores(), 0)):
        statistic, p, concordance, mean_ranks = friedman(values)
        theirs = scipy.stats.friedmanchisquare(*values)
        assert statistic == pytest.approx(theirs.statistic)
        assert p == pytest.approx(theirs.pvalue)
        assert concordance == pytest.approx(theirs.statistic / (40 * 5))
        by_hand = [
            np.mean([1 + (values[:, i] > v[i]).sum() + ((values[:, i] == v[i]).sum() - 1) / 2 for i in range(40)])
            for v in values
        ]
        np.testing.assert_allclose(mean_ranks, by_hand)


def test_friedman_of_perfect_agreement_and_of_nothing() -> None:
    perfect = np.arange(4.0)[:, None] + np.zeros((4, 9))
    assert friedman(perfect)[2] == pytest.approx(1)
    assert friedman(perfect)[3].tolist() == [4, 3, 2, 1]
    assert friedman(np.ones((3, 9)))[:2] == (0, 1)
    assert np.isnan(friedman(np.ones((1, 9)))[0])


def test_nemenyi_separates_as_scikit_posthocs_does() -> None:
    values = scores()
    found = compare(NAMES, values, True)
    p = scikit_posthocs.posthoc_nemenyi_friedman(values.T).to_numpy()
    far = np.abs(found.mean_ranks[:, None] - found.mean_ranks) > found.critical_difference
    np.testing.assert_array_equal(far, p < 0.05)
    assert 0 < far.sum() < 30


def test_critical_difference_of_the_published_table() -> None:
    """Demsar 2006, table 5 (q .05 for k = 2, 5, 10) and the worked example: k = 4, N = 14, CD = 1.25."""
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    for k, q in ((2, 1.960), (5, 2.728), (10, 3.164)):
        assert critical_difference(k, 6) == pytest.approx(q * np.sqrt(k * (k + 1) / 36), abs=2e-3)


def test_pairs_equal_scikit_posthocs_with_holm() -> None:
    values = scores(images=25)
    long = pd.DataFrame({"method": np.repeat(list(NAMES), 25), "value": values.ravel()})
    theirs = scikit_posthocs.posthoc_wilcoxon(long, val_col="value", group_col="method", p_adjust="holm")
    np.testing.assert_allclose(compare(NAMES, values, True).p, theirs.to_numpy(), rtol=1e-6)


def test_many_images_equal_scipys_approximation() -> None:
    differences = np.round(np.random.default_rng(1).normal(0.2, 1, (5, 90)), 1)
    p, effect = signed_rank(differences)
    for row, ours, size in zip(differences, p, effect, strict=True):
        theirs = scipy.stats.wilcoxon(row, method="asymptotic", correction=True)
        assert ours == pytest.approx(theirs.pvalue, rel=1e-6)
        ranks = scipy.stats.rankdata(np.abs(row[row != 0]))
        signed = np.sign(row[row != 0]) * ranks
        assert size == pytest.approx(signed.sum() / ranks.sum())


def test_few_images_with_ties_equal_an_enumeration_of_all_signs() -> None:
    rows = np.array([[1, 1, 2, -1, 3, 0, 5], [2, 2, 2, 2, 2, 2, 0], [1, -1, 2, -2, 0, 0, np.nan], [1, 1, 1, 1, 1, np.nan, 0]])
    p, _ = signed_rank(rows)
    for row, ours in zip(rows, p, strict=True):
        kept = row[np.isfinite(row) & (row != 0)]
        ranks = scipy.stats.rankdata(np.abs(kept))
        ours_statistic = abs(np.sign(kept) @ ranks)
        every = [abs(np.array(signs) @ ranks) for signs in itertools.product((-1, 1), repeat=len(kept))]
        assert ours == pytest.approx(np.mean([value >= ours_statistic - 1e-9 for value in every]))


def test_all_zero_differences_separate_nothing() -> None:
    p, effect = signed_rank(np.zeros((1, 30)))
    assert (p[0], effect[0]) == (1, 0)


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([])).size == 0


def test_better_follows_the_direction_and_rounding_separates_nothing() -> None:
    base = np.random.default_rng(2).normal(5, 1, 40)
    values = np.stack([base, base * (1 + 1e-8), base + 0.5])
    up, down = compare(NAMES[:3], values, True), compare(NAMES[:3], values, False)
    assert up.better.tolist() == [[False] * 3, [False] * 3, [True, True, False]]
    assert down.better.tolist() == [[False, False, True], [False, False, True], [False] * 3]
    assert up.effect[2, 0] == 1 == down.effect[0, 2]
    assert up.rank_ranges.tolist() == [[2, 3], [2, 3], [1, 1]]
    assert (up.separated, up.pairs) == (2, 3)


def test_nan_is_left_out_pair_by_pair() -> None:
    values = scores(3, 30)
    values[0, 0] = np.nan
    found = compare(NAMES[:3], values, True)
    assert found.images == 29
    whole = compare(NAMES[1:3], values[1:], True)
    assert whole.images == 30
    assert found.effect[1, 2] == whole.effect[0, 1]


def test_methods_that_cannot_be_separated_share_ranks_on_the_board() -> None:
    random = np.random.default_rng(3)
    base = random.normal(0, 1, 30)
    made = board(
        [
            result("best", (base + 2).tolist()),
            result("twin", (base + 2 + random.normal(0, 0.3, 30)).tolist()),
            result("last", base.tolist()),
            result("random", base.tolist(), control=True),
        ]
    )
    ranges = made.summary.set_index("method")[["rank_low", "rank_high"]]
    assert ranges.loc["best"].tolist() == ranges.loc["twin"].tolist() == [1, 2]
    assert ranges.loc["last"].tolist() == [3, 3]
    assert ranges.loc["random"].isna().all()
    rows = [line for line in markdown(made, "b").splitlines() if line.startswith("| best ")]
    assert "** 1-2 |" in rows[0]


def test_mean_rank_interval_equals_a_slow_loop() -> None:
    random = np.random.default_rng(4)
    a, b = random.normal(0, 1, (3, 12)), random.normal(0, 1, (3, 12))
    made = board(
        [result(m, v.tolist()) for m, v in zip("xyz", a, strict=True)]
        + [result(m, v.tolist(), columns=(LIPSCHITZ,), metric="s") for m, v in zip("xyz", b, strict=True)]
    )
    found = mean_rank_intervals(list(made.scores.values()))
    from xbench.board.rank_intervals import RESAMPLES
    from xbench.board.statistics import positions

    drawn = np.concatenate(list(positions(12)))[:RESAMPLES]
    times = np.random.default_rng(1).multinomial(2, [0.5, 0.5], RESAMPLES)
    means = []
    for images, (first, second) in zip(drawn, times, strict=True):
        up, down = a[:, images].mean(1), b[:, images].mean(1)
        ranks = [[1 + (up > v).sum() for v in up], [1 + (down < v).sum() for v in down]]
        means.append((first * np.array(ranks[0]) + second * np.array(ranks[1])) / 2)
    np.testing.assert_allclose(found.to_numpy().T, np.quantile(means, [0.025, 0.975], axis=0))
    assert (made.rank_intervals.loc[made.ranks.mean.index, "low"] <= made.ranks.mean).all()


def test_a_ranking_without_doubt_has_no_width() -> None:
    steps = np.random.default_rng(5).normal(0, 0.1, 30)
    made = board([result(m, (i + steps).tolist(), columns=(SSIM,)) for i, m in enumerate("abc")])
    assert made.rank_intervals.loc["c"].tolist() == [1, 1]
    assert made.rank_intervals.loc["a"].tolist() == [3, 3]

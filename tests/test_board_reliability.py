"""Whether a metric deserves trust: agreement over images and seeds, alpha, the random control, other metrics."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from board_results import LIPSCHITZ, RAW, SSIM, board, result, robustness

from xbench.board.markdown import markdown
from xbench.board.reliability import SPLITS, cannot_separate, halves, kendall, krippendorff
from xbench.board.statistics import positions
from xbench.board.table import Key


def table(methods: int = 6, images: int = 30, signal: float = 1.0, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(0, 1, (methods, images)) + signal * np.arange(methods)[:, None]


def test_kendall_equals_scipy_with_and_without_ties() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(size=(4, 9)), np.round(random.normal(size=(4, 9)))
    for a, b, ours in zip(first, second, kendall(first, second), strict=True):
        assert ours == pytest.approx(scipy.stats.kendalltau(a, b).statistic)
    assert np.isnan(kendall(np.ones((1, 4)), first[:1, :4])[0])


def slow_alpha(values: np.ndarray) -> float:
    """Krippendorff's alpha from its coincidences: images rate methods by their ranks, squared distance."""
    ranks = scipy.stats.rankdata(values, axis=0)
    methods, images = ranks.shape
    n = methods * images
    observed = sum(
        (unit[i] - unit[j]) ** 2 / (images - 1) for unit in ranks for i, j in itertools.permutations(range(images), 2)
    )
    every = ranks.ravel()
    expected = sum((a - b) ** 2 for a, b in itertools.product(every, every)) / (n - 1)
    return float(1 - observed / expected)


@pytest.mark.parametrize("signal", [0.0, 0.3, 3.0])
def test_alpha_equals_its_definition(signal: float) -> None:
    values = np.round(table(4, 7, signal), 1)
    assert krippendorff(values)[0] == pytest.approx(slow_alpha(values))


def test_the_interval_of_alpha_equals_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xbench.board.statistics.RESAMPLES", 60)
    values = table(4, 7, 0.5)
    # Every resample from its pairs of different images and of all its ratings.
    found = []
    for drawn in np.concatenate(list(positions(7))):
        ranks = scipy.stats.rankdata(values, axis=0)[:, drawn]
        pairs = [(i, j) for i, j in itertools.permutations(range(7), 2) if drawn[i] != drawn[j]]
        observed = np.mean([(row[i] - row[j]) ** 2 for row in ranks for i, j in pairs])
        every = ranks.ravel()
        expected = sum((a - b) ** 2 for a, b in itertools.product(every, every)) / (len(every) * (len(every) - 1))
        found.append(1 - observed / expected)
    assert len(found) == 60
    _, low, high = krippendorff(values)
    assert (low, high) == pytest.approx(np.quantile(found, [0.025, 0.975]))


def test_the_interval_of_alpha_covers_chance_and_narrows_with_images() -> None:
    few, many = krippendorff(table(6, 20, 0.0)), krippendorff(table(6, 400, 0.0))
    assert few[1] < 0 < few[2]
    assert many[1] < 0 < many[2]
    assert many[2] - many[1] < (few[2] - few[1]) / 3


def test_alpha_is_one_for_agreement_and_near_zero_for_chance() -> None:
    assert krippendorff(np.arange(5.0)[:, None] + np.zeros((5, 8))) == pytest.approx([1, 1, 1])
    assert abs(krippendorff(table(6, 400, 0.0))[0]) < 0.02
    assert all(map(math.isnan, krippendorff(table(1, 9))))
    assert all(map(math.isnan, krippendorff(np.ones((3, 5)))))


def test_halves_equal_a_slow_loop() -> None:
    values = table(5, 9, 0.3)
    order = np.random.default_rng(2).random((SPLITS, 9)).argsort(1)
    taus = [scipy.stats.kendalltau(values[:, split[:4]].mean(1), values[:, split[4:8]].mean(1)).statistic for split in order]
    assert halves(values) == pytest.approx([np.mean(taus), *np.quantile(taus, [0.025, 0.975])])


def test_halves_of_a_clear_ranking_agree_and_of_noise_do_not() -> None:
    assert halves(table(signal=20.0)) == pytest.approx([1, 1, 1])
    mean, low, high = halves(table(8, 40, 0.0))
    assert low < 0 < high
    assert abs(mean) < 0.5
    assert math.isnan(halves(table(5, 3))[0])


def named(values: np.ndarray, **about: object) -> list:
    return [result(f"m{i}", row.tolist(), **about) for i, row in enumerate(values)]


def test_seeds_agree_where_the_ranking_does() -> None:
    base = table(5, 40, 3.0)
    noise = np.random.default_rng(3).normal(0, 0.01, base.shape)
    from xbench.board import make_board

    made = make_board(named(base), "T", repeats=[named(base + noise), named(base[::-1])])
    row = made.reliability.iloc[0]
    # Of the three pairs of seeds one agrees and two are turned round.
    assert row["seeds"] == pytest.approx((1 - 1 - 1) / 3)
    assert row["seeds_low"] <= row["seeds"] <= row["seeds_high"]
    assert math.isnan(board(named(base)).reliability.iloc[0]["seeds"])
    assert f"| {row['seeds']:.2f} [" in markdown(made, "b").split("## Do the metrics")[1]


def test_methods_above_the_random_control_are_counted() -> None:
    values = table(3, 40, 5.0)
    made = board(
        [*named(values), result("random", (values[1] + 0.0).tolist(), control=True), result("edges", [0.0] * 40, control=True)]
    )
    row = made.reliability.iloc[0]
    assert (row["above_random"], row["beside_random"]) == (1, 3)


def test_metrics_are_compared_in_the_direction_that_is_better() -> None:
    up = np.arange(4.0)
    results = [result(f"m{i}", [v] * 5, columns=(SSIM,), metric="one") for i, v in enumerate(up)]
    results += [result(f"m{i}", [-v] * 5, columns=(LIPSCHITZ,), metric="two") for i, v in enumerate(up)]
    results += [result(f"m{i}", [v] * 5, columns=(LIPSCHITZ,), metric="three") for i, v in enumerate(up[:3])]
    results += [result("m0", [1.0] * 5, columns=(RAW,), metric="unranked")]
    found = board(results).agreement
    assert found.shape == (3, 3)
    np.testing.assert_allclose(found.to_numpy(), [[1, 1, -1], [1, 1, -1], [-1, -1, 1]])


def test_a_metric_that_cannot_tell_methods_apart_is_marked() -> None:
    random = np.random.default_rng(4)
    noise = random.normal(0, 1, (4, 20))
    made = board([*named(noise, metric="noise"), *named(noise + 9 * np.arange(4)[:, None], metric="clear")])
    marks = {key.metric: cannot_separate(found) for key, found in made.comparisons.items()}
    assert marks == {"noise": True, "clear": False}
    page = markdown(made, "b")
    assert "noise<br>SSIM ↑<br>⚠ cannot tell methods apart" in page
    assert page.count("cannot tell methods apart") == 1
    assert "| 0 of 6 ⚠" in " ".join(page.split("## Do the metrics")[1].split())


def test_columns_are_numbered_alike_wherever_they_are_compared() -> None:
    results = robustness()
    # As after a method that has no consistency: the order of the results with scores is another one than that of the columns.
    holes = [result("hole", columns=r.columns, metric=r.metric, status="n/a") for r in results if r.method == "method-0"]
    made = board([*holes, *sorted(results, key=lambda r: r.metric, reverse=True)])
    order = [Key(*row) for row in made.reliability[list(Key._fields)].values.tolist()]
    assert order == list(made.agreement.index) == list(made.comparisons) == [key for key in made.columns if key in made.scores]

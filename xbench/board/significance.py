"""Which methods of a column the data can tell apart: Friedman, Nemenyi, pairwise Wilcoxon with Holm, effect sizes."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]

ALPHA = 0.05
"""Level of every test on a board (own decision)."""
EXACT = 25
"""Up to so many differences that are not zero the signed-rank test is exact (own decision)."""
NOISE = 1e-6
"""Two scores that differ by less than this, relative to the larger, are equal: stored scores have 7 digits (own decision)."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The methods of one column against each other, all on the same images.

    Args:
        methods: names, in the order of the arrays.
        images: how many have a finite score of every method; the Friedman test and the mean ranks are over these.
        statistic, p_value: of the Friedman test; NaN with fewer than 2 methods or images.
        concordance: Kendall's W in [0, 1], the effect size of the Friedman test: 1 = every image ranks the methods alike.
        mean_ranks: (m,) average rank over the images, 1 = best, ties share the average rank; NaN without such images.
        critical_difference: by how much two mean ranks must differ to be separated by Nemenyi's test.
        p: (m, m) Wilcoxon signed-rank test of each pair, adjusted by Holm over all pairs of the column; 1 on the diagonal.
        effect: (m, m) matched-pairs rank-biserial correlation in [-1, 1], positive where the row scores better.
        better: (m, m) True where the row is better than the column with confidence.
    """

    methods: tuple[str, ...]
    images: int
    statistic: float
    p_value: float
    concordance: float
    mean_ranks: Floats
    critical_difference: float
    p: Floats
    effect: Floats
    better: NDArray[np.bool_]

    @property
    def pairs(self) -> int:
        """The number of pairs of methods."""
        return len(self.methods) * (len(self.methods) - 1) // 2

    @property
    def separated(self) -> int:
        """The number of pairs that the data can tell apart."""
        return int(self.better.sum())

    @property
    def rank_ranges(self) -> NDArray[np.int64]:
        """Best and worst rank (m, 2) that the data leaves to each method: 1 + methods that are better, m - those worse.

        Methods that cannot be separated from the best all have 1 as their best rank (own decision: not transitive groups, which
        would depend on the order in which they are formed).
        """
        return np.stack([1 + self.better.sum(0), len(self.methods) - self.better.sum(1)], 1).astype(np.int64)


def compare(methods: tuple[str, ...], values: Floats, higher_is_better: bool) -> Comparison:
    """Compares the scores (m, n) of m methods on the same n images.

    A method is better than another with confidence if its mean is better over the images that both have a finite score on, and
    the Wilcoxon signed-rank test, adjusted by Holm (1979) over all pairs, rejects at .05 in the same direction (own decision).
    The procedure is that of Demsar 2006, https://jmlr.org/papers/v7/demsar06a.html, with images in the place of data sets.
    """
    count = len(methods)
    good = np.where(np.isfinite(values), values, np.nan) * (1 if higher_is_better else -1)
    complete = good[:, np.isfinite(good).all(0)]
    statistic, p_value, concordance, mean_ranks = friedman(complete)
    first, second = np.triu_indices(count, 1)
    a, b = good[first], good[second]
    differences = a - b
    differences[np.abs(differences) <= NOISE * np.maximum(np.abs(a), np.abs(b))] = 0
    p_pairs, effect_pairs = signed_rank(differences)
    p_pairs = holm(p_pairs)
    p, effect, better = np.ones((count, count)), np.zeros((count, count)), np.zeros((count, count), dtype=bool)
    p[first, second] = p[second, first] = p_pairs
    effect[first, second], effect[second, first] = effect_pairs, -effect_pairs
    sign = np.sign(np.nansum(differences, 1))
    certain = (p_pairs < ALPHA) & (sign == np.sign(effect_pairs))
    better[first, second], better[second, first] = certain & (sign > 0), certain & (sign < 0)
    difference = critical_difference(count, complete.shape[1])
    return Comparison(methods, complete.shape[1], statistic, p_value, concordance, mean_ranks, difference, p, effect, better)


def friedman(good: Floats) -> tuple[float, float, float, Floats]:
    """Friedman's test (1937) of scores (m, n), higher = better: statistic with ties corrected, p, Kendall's W, mean ranks."""
    count, images = good.shape
    if count < 2 or images < 2:
        return float("nan"), float("nan"), float("nan"), np.full(count, np.nan)
    ranks = stats.rankdata(-_rounded(good), axis=0)
    spread = (ranks**2).sum() - images * count * (count + 1) ** 2 / 4
    between = ((ranks.sum(1) - images * (count + 1) / 2) ** 2).sum()
    statistic = (count - 1) * between / spread if spread > 0 else 0.0
    p_value = float(special.chdtrc(count - 1, statistic))
    return float(statistic), p_value, float(statistic / (images * (count - 1))), ranks.mean(1)


@functools.cache
def _studentized(count: int) -> float:
    return float(stats.studentized_range.isf(ALPHA, count, np.inf) / np.sqrt(2))


def critical_difference(count: int, images: int) -> float:
    """Nemenyi's critical difference of mean ranks at .05, for ``count`` methods on ``images`` images; NaN for fewer than 2."""
    if count < 2 or images < 2:
        return float("nan")
    return float(_studentized(count) * np.sqrt(count * (count + 1) / (6 * images)))


def signed_rank(differences: Floats) -> tuple[Floats, Floats]:
    """Wilcoxon's signed-rank test (1945) of differences (s, n): two-sided p (s,) and rank-biserial correlation (s,).

    Differences that are zero or NaN are left out. Up to 25 others p is exact, from the permutation distribution of the signs
    given the ranks, ties included; above it is the normal approximation with ties and continuity corrected (own decision). The
    correlation is (W+ - W-) / (W+ + W-) (Kerby 2014, https://doi.org/10.2466/11.IT.3.1).
    """
    d = np.nan_to_num(differences, nan=0.0)
    some = d != 0
    count = some.sum(1)
    ranks = np.where(some, stats.rankdata(np.where(some, _rounded(np.abs(d)), np.inf), axis=1), 0.0) if d.size else d
    plus = (ranks * (d > 0)).sum(1)
    total = ranks.sum(1)
    effect = (2 * plus - total) / np.maximum(total, 1)
    extreme = np.maximum(plus, total - plus)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.maximum(extreme - total / 2 - 0.5, 0) / np.sqrt((ranks**2).sum(1) / 4)
    p = np.where(count > 0, 2 * special.ndtr(-np.nan_to_num(z)), 1.0)
    few = (count > 0) & (count <= EXACT)
    if few.any():
        p[few] = _exact(ranks[few], extreme[few])
    return np.minimum(p, 1.0), effect


def _exact(ranks: Floats, extreme: Floats) -> Floats:
    """2 P(W >= extreme) when each of the ranks (s, n) counts or not by the toss of a coin; zeros are no ranks."""
    twice = np.rint(2 * np.sort(ranks, axis=1)[:, ::-1][:, :EXACT]).astype(np.int64)
    sums = np.arange(twice.sum(1).max() + 1)
    chance = np.zeros((len(twice), len(sums)))
    chance[:, 0] = 1
    for step in twice.T:
        before = sums - step[:, None]
        chance = (chance + np.where(before >= 0, np.take_along_axis(chance, np.maximum(before, 0), 1), 0)) / 2
    return np.asarray(2 * np.where(sums >= np.rint(2 * extreme)[:, None], chance, 0).sum(1))


def holm(p: Floats) -> Floats:
    """p-values (s,) adjusted for s tests by Holm's step-down procedure (1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]), 1)
    return adjusted


def _rounded(values: Floats) -> NDArray[np.float32]:
    """In single precision, in which scores that differ by rounding only are equal."""
    return values.astype(np.float32)

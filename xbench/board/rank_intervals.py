"""How far mean ranks depend on which images were drawn, and on which columns a board has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from xbench.board.columns import ColumnScores
from xbench.board.statistics import resampled_means

RESAMPLES = 2_000
"""Fewer than for a mean: every resample is ranked anew (own decision)."""


def mean_rank_intervals(scores: Sequence[Sequence[ColumnScores]]) -> pd.DataFrame:
    """The 95 % interval of each method's mean rank over the given columns: ``low`` and ``high``, indexed by method.

    Percentile bootstrap over columns and images: in each of 2 000 resamples the images are drawn with replacement (at the same
    positions for all columns on equally many images), the methods ranked anew by their means, and the mean rank taken over
    columns drawn with replacement. A resample in which a method is ranked in no column drawn is left out for that method.
    """
    methods = list(dict.fromkeys(method for sets in scores for one in sets for method in one.methods))
    place = {method: i for i, method in enumerate(methods)}
    drawn = np.random.default_rng(1).multinomial(len(scores), np.full(len(scores), 1 / len(scores)), RESAMPLES)
    ranks, weights = np.zeros((2, RESAMPLES, len(methods)))
    for sets, times in zip(scores, drawn.T, strict=True):
        index = [place[method] for one in sets for method in one.methods]
        ranks[:, index] += times[:, None] * stats.rankdata(_resampled(sets), method="min", axis=1)
        weights[:, index] += times[:, None]
    with np.errstate(invalid="ignore"):
        low, high = np.nanquantile(ranks / weights, [0.025, 0.975], axis=0)
    return pd.DataFrame({"low": low, "high": high}, index=methods)


def _resampled(sets: Sequence[ColumnScores]) -> NDArray[np.float32]:
    """The resampled means of a column's methods, lower = better, in single precision so that rounding separates none."""
    means = []
    for one in sets:
        finite = np.isfinite(one.values)
        means.append(resampled_means(np.where(finite, one.values, 0), finite, RESAMPLES))
    joined = np.concatenate(means, axis=1).astype(np.float32) * (-1 if sets[0].higher_is_better else 1)
    return np.where(np.isnan(joined), np.float32(np.inf), joined)

"""What a board says of one column of per-image scores: mean, median, bootstrap interval, spread, share of NaN."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 10_000
CHUNK = 2_000_000
"""Positions drawn at once: bounds the memory (about 100 MB) whatever the number of images."""
BLOCK = 256
"""Columns of scores resampled at once: bounds the memory whatever the number of methods."""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of several columns of scores, each array (s,); NaN where a column has too few finite scores.

    ``mean``, ``median`` and ``std`` (n - 1 in the denominator) are over the finite scores; ``low`` and ``high`` bound the 95 %
    interval of the mean; ``nan_share`` in [0, 1] is the share of images whose score is not finite.
    """

    mean: Floats
    median: Floats
    low: Floats
    high: Floats
    std: Floats
    nan_share: Floats


def describe(values: Floats) -> Statistics:
    """Statistics of scores (s, n): s columns (of any methods) on the same n images, n at least 1.

    The interval is the percentile bootstrap (Efron 1979, https://doi.org/10.1214/aos/1176344552) over images: the 2.5 % and
    97.5 % quantiles of the mean over 10 000 resamples of the images. All columns are resampled at the same positions, which
    depend on n only: methods scored on the same images are resampled together (paired). A resample's mean is over its finite
    scores, as the mean itself is. Own decisions: 10 000 resamples, percentiles, n - 1 in the standard deviation.
    """
    finite = np.isfinite(values)
    count = finite.sum(1)
    with np.errstate(invalid="ignore"):
        mean = np.where(finite, values, 0).sum(1) / count
    # The resamples are drawn around the mean: large scores with a small spread keep their digits.
    centred = np.where(finite, values - mean[:, None], 0)
    std = np.full_like(mean, np.nan)
    np.sqrt((centred**2).sum(1) / np.maximum(count - 1, 1), out=std, where=count > 1)
    low, high, median = (np.full_like(mean, np.nan) for _ in range(3))
    some = np.flatnonzero(count > 0)
    for block in np.split(some, range(BLOCK, len(some), BLOCK)):
        low[block], high[block] = mean[block] + _interval(centred[block], finite[block])
        median[block] = np.nanmedian(np.where(finite[block], values[block], np.nan), axis=1)
    return Statistics(mean, median, low, high, std, 1 - count / values.shape[1])


def draws_std(values: Floats, draws: Sequence[Sequence[int]]) -> float:
    """Standard deviation of the means of subsamples of scores (n,).

    ``draws`` lists the positions of each subsample, as in "four draws of 50 images". A mean is over the finite scores.
    The denominator is the number of draws less one (own decision). NaN with fewer than two draws or if one has no finite score.
    """
    if len(draws) < 2:
        return float("nan")
    finite = [values[list(draw)][np.isfinite(values[list(draw)])] for draw in draws]
    return float(np.std([drawn.mean() if len(drawn) else np.nan for drawn in finite], ddof=1))


def positions(n: int) -> Iterator[NDArray[np.int64]]:
    """The resampled positions, 10 000 rows of n in chunks: the same for every set of n images."""
    generator = np.random.default_rng(0)
    rows = max(1, CHUNK // n)
    for start in range(0, RESAMPLES, rows):
        yield generator.integers(n, size=(min(rows, RESAMPLES - start), n))


def times_drawn(n: int, resamples: int | None = None) -> Iterator[Floats]:
    """How often each of n images is in each of the first resamples, arrays (r, n) in chunks."""
    left = RESAMPLES if resamples is None else resamples
    for drawn in positions(n):
        chunk = drawn[:left]
        left -= len(chunk)
        flat = chunk + n * np.arange(len(chunk))[:, None]
        yield np.bincount(flat.ravel(), minlength=flat.size).reshape(flat.shape).astype(np.float64)
        if left == 0:
            return


def resampled_means(centred: Floats, finite: NDArray[np.bool_], resamples: int = RESAMPLES) -> Floats:
    """The means (resamples, s) of scores (s, n) that are 0 where not finite, over the first resamples of the images.

    A mean is over the finite scores; NaN for a resample without any.
    """
    n = centred.shape[1]
    whole = bool(finite.all())
    means: list[Floats] = []
    for times in times_drawn(n, resamples):  # which turns all means of a chunk into one matrix product
        with np.errstate(invalid="ignore"):
            means.append(times @ centred.T / (n if whole else times @ finite.T.astype(np.float64)))
    return np.concatenate(means)


def _interval(centred: Floats, finite: NDArray[np.bool_]) -> Floats:
    """The 2.5 % and 97.5 % quantiles (2, s) of the resampled means of scores (s, n) that are 0 where not finite."""
    means = resampled_means(centred, finite)
    if finite.all():
        return np.asarray(np.quantile(means, [0.025, 0.975], axis=0))
    # A resample without any finite score has no mean and is left out.
    return np.asarray(np.nanquantile(means, [0.025, 0.975], axis=0))

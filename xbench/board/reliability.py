"""Does a metric deserve trust? How far it ranks the methods alike on other images and seeds, and as other metrics do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from xbench.board.columns import ColumnScores, ranked_scores
from xbench.board.paired import advantages
from xbench.board.significance import Comparison
from xbench.board.statistics import resampled_means, times_drawn
from xbench.board.table import Key, summary_table
from xbench.result import Result

Floats = NDArray[np.float64]

SPLITS = 500
"""Random halves of the images (own decision)."""
RESAMPLES = 500
"""Resamples of the images for the interval of the agreement over seeds (own decision)."""
MEASURES = ("halves", "halves_low", "halves_high", "seeds", "seeds_low", "seeds_high", "alpha", "alpha_low", "alpha_high")


def cannot_separate(comparison: Comparison | None) -> bool:
    """A column that cannot tell its methods apart: it has at least two and separates no pair of them with confidence."""
    return comparison is not None and comparison.pairs > 0 and comparison.separated == 0


def reliability(
    scores: Mapping[Key, Sequence[ColumnScores]],
    comparisons: Mapping[Key, Comparison],
    results: Sequence[Result],
    repeats: Sequence[Sequence[Result]],
) -> pd.DataFrame:
    """One row per ranked column, of the methods that are scored on the same images.

    Columns: those of ``Key``; methods, images; friedman_p, concordance (Kendall's W); separated and pairs (of methods);
    halves with low and high (`halves`); seeds with low and high (`seeds`; NaN without results at other seeds); alpha with low
    and high (`krippendorff`); above_random and beside_random: how many methods are better than the control ``random`` with
    confidence, of how many.
    """
    other = [ranked_scores(again, summary_table(again)) for again in repeats]
    above = _above_random(results)
    rows = []
    for key, comparison in comparisons.items():
        ours = scores[key][0]
        again = [sets[key][0] for sets in other if key in sets]
        measured = [*halves(ours.values), *seeds(ours, again), *krippendorff(ours.values)]
        beats, beside = above.get(key, (0, 0))
        rows.append(
            {
                **key._asdict(),
                "methods": len(ours.methods),
                "images": comparison.images,
                "friedman_p": comparison.p_value,
                "concordance": comparison.concordance,
                "separated": comparison.separated,
                "pairs": comparison.pairs,
                **dict(zip(MEASURES, measured, strict=True)),
                "above_random": beats,
                "beside_random": beside,
            }
        )
    return pd.DataFrame(rows)


def halves(values: Floats) -> tuple[float, float, float]:
    """Kendall's tau-b of the methods' means over two random halves of the images, scores (m, n): mean, 2.5 % and 97.5 %.

    Over 500 splits; the quantiles say how much single splits differ. NaN with fewer than 2 methods or 4 images.
    """
    methods, images = values.shape
    if methods < 2 or images < 4:
        return (float("nan"),) * 3
    order = np.random.default_rng(2).random((SPLITS, images)).argsort(1)
    first = np.zeros((SPLITS, images))
    np.put_along_axis(first, order[:, : images // 2], 1.0, 1)
    second = 1 - first
    if images % 2:
        np.put_along_axis(second, order[:, -1:], 0.0, 1)
    return _summed_up(kendall(_means(values, first), _means(values, second)))


def seeds(scores: ColumnScores, repeats: Sequence[ColumnScores]) -> tuple[float, float, float]:
    """Kendall's tau-b of the methods' means between seeds, mean over all pairs of seeds, with its 95 % interval.

    The interval is the percentile bootstrap over images, drawn alike for all seeds; the images must be the same. Methods that
    a seed lacks are left out. NaN without another seed, or with fewer than 2 methods.
    """
    kept = [one for one in (scores, *repeats) if one.ids == scores.ids]
    methods = [method for method in scores.methods if all(method in one.methods for one in kept)]
    if len(kept) < 2 or len(methods) < 2:
        return (float("nan"),) * 3
    arrays = [one.values[[one.methods.index(method) for method in methods]] for one in kept]
    whole = np.ones((1, len(scores.ids)))
    point = _over_pairs([_means(values, whole) for values in arrays])
    means = []
    for values in arrays:
        finite = np.isfinite(values)
        means.append(resampled_means(np.where(finite, values, 0), finite, RESAMPLES))
    _, low, high = _summed_up(_over_pairs(means))
    return float(point[0]), low, high


def krippendorff(values: Floats) -> tuple[float, float, float]:
    """Krippendorff's alpha of the images as raters of the methods, scores (m, n), with its 95 % interval.

    1: every image ranks the methods alike; 0 is what chance gives. The ratings are the ranks within an image (ties share the
    average rank), their distance is the squared difference; without ties this is the ordinal alpha, which Tomsett et al. 2020
    (https://arxiv.org/abs/1912.01451) use. The interval is the percentile bootstrap over images, at the positions of all other
    intervals; pairs of an image with itself, which a resample has, are no agreement and do not count (own decision).
    NaN with fewer than 2 methods or images.
    """
    good = values[:, np.isfinite(values).all(0)]
    methods, images = good.shape
    if methods < 2 or images < 2:
        return (float("nan"),) * 3
    ranks = stats.rankdata(good.astype(np.float32), axis=0) - (methods + 1) / 2
    point = _alphas(ranks, np.ones((1, images)))
    _, low, high = _summed_up(np.concatenate([_alphas(ranks, times) for times in times_drawn(images)]))
    return float(point[0]), low, high


def _alphas(ranks: Floats, times: Floats) -> Floats:
    """Krippendorff's alpha (s,) of ranks (m, n) less their mean, of which sample s has image i ``times[s, i]`` times."""
    methods, images = ranks.shape
    spread = times @ (ranks**2).sum(0) / images
    common = ((times @ ranks.T / images) ** 2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        within = (spread - common) / methods * images**2 / (images**2 - (times**2).sum(1))
        return np.asarray(1 - within / (spread * images / (methods * images - 1)), dtype=np.float64)


def correlations(summary: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau-b between the ranked columns: do they rank the methods alike?

    Indexed both ways by ``Key``; over the methods that both columns rank, NaN with fewer than 3. Means are compared, turned so
    that higher is better.
    """
    ranked = summary[summary["rank"].notna()]
    signed = ranked["mean"] * ranked["direction"].map({"higher": 1.0, "lower": -1.0})
    groups = {Key(*map(str, cells)): rows for cells, rows in ranked.groupby(list(Key._fields), sort=False)}
    keys = list(groups)
    columns = [pd.Series(signed[rows.index].to_numpy(), index=rows["method"]) for rows in groups.values()]
    table = np.full((len(keys), len(keys)), np.nan)
    for i, first in enumerate(columns):
        for j, second in enumerate(columns[: i + 1]):
            both = first.index.intersection(second.index)
            if len(both) >= 3:
                table[i, j] = table[j, i] = kendall(first[both].to_numpy()[None], second[both].to_numpy()[None])[0]
    return pd.DataFrame(table, index=pd.Index(keys, tupleize_cols=False), columns=pd.Index(keys, tupleize_cols=False))


def kendall(first: Floats, second: Floats) -> Floats:
    """Kendall's tau-b (s,) between the rows of two arrays (s, m); NaN where all values of a row are equal."""
    i, j = np.triu_indices(first.shape[1], 1)
    a, b = (np.sign((v[:, i] - v[:, j]).astype(np.float32)) for v in (first, second))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(1) / np.sqrt((a**2).sum(1, dtype=float) * (b**2).sum(1)), dtype=np.float64)


def _above_random(results: Sequence[Result]) -> dict[Key, tuple[int, int]]:
    """By column, how many methods are better than the control ``random`` (interval above 0), of how many."""
    controls = [result for result in results if result.control and result.method.partition("(")[0] == "random"]
    methods = [result for result in results if not result.control]
    table = advantages((method, control) for control in controls for method in methods)
    counts: dict[Key, tuple[int, int]] = {}
    for cells, rows in table.groupby(list(Key._fields), sort=False):
        counts[Key(*map(str, cells))] = (int((rows["low"] > 0).sum()), len(rows))
    return counts


def _means(values: Floats, weights: Floats) -> Floats:
    """Weighted means (s, m) over the finite scores (m, n) for weights (s, n)."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(weights @ np.where(finite, values, 0).T / (weights @ finite.T.astype(float)))


def _over_pairs(means: Sequence[Floats]) -> Floats:
    pairs = [(a, b) for a in range(len(means)) for b in range(a)]
    return np.asarray(np.mean([kendall(means[a], means[b]) for a, b in pairs], axis=0))


def _summed_up(values: Floats) -> tuple[float, float, float]:
    if not np.isfinite(values).any():
        return (float("nan"),) * 3
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(np.nanmean(values)), float(low), float(high)

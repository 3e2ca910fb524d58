"""Ranks of methods per column, and the matrix that counts how often a method took each rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd


@dataclasses.dataclass(frozen=True)
class RankMatrix:
    """How often each method took each rank over the columns of a board.

    ``counts`` has one row per method that is ranked anywhere, sorted by mean rank (ties by name), and the columns 1, 2, ... up
    to the worst rank taken; ``mean`` is the mean rank over the columns in which the method is ranked, in the same order.
    """

    counts: pd.DataFrame
    mean: pd.Series[float]


def competition_ranks(values: pd.DataFrame, higher_is_better: Sequence[bool]) -> pd.DataFrame:
    """Ranks (methods x columns) of values; 1 is best, equal values share the smallest rank, the next rank is skipped.

    NaN stays NaN and takes no rank. ``higher_is_better`` holds one direction per column. Standard competition ranking, which
    gives figure 7 of "Variational Perturbations for Visual Feature Attribution" (ICLR 2022 submission) from its tables.
    """
    ranked = [values[c].rank(method="min", ascending=not up) for c, up in zip(values.columns, higher_is_better, strict=True)]
    return pd.concat(ranked, axis=1) if ranked else pd.DataFrame(index=values.index)


def rank_matrix(ranks: pd.DataFrame) -> RankMatrix:
    """The rank matrix of ranks (methods x columns), NaN where a method is not ranked; methods without any rank are left out."""
    ranked = ranks.dropna(how="all")
    mean = ranked.mean(axis=1)
    order = sorted(ranked.index, key=lambda method: (mean[method], method))
    worst = 0 if ranked.empty else int(np.nanmax(ranked.to_numpy()))
    counts = pd.DataFrame({rank: (ranked == rank).sum(axis=1) for rank in range(1, worst + 1)}, index=ranked.index)
    return RankMatrix(counts.loc[order], mean.loc[order])

"""The board: results, summed up, ranked and ready to be written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property

import pandas as pd

from xbench.board.columns import ColumnScores, compare_columns, ranked_scores, with_ranges
from xbench.board.rank_intervals import mean_rank_intervals
from xbench.board.ranks import RankMatrix, rank_matrix
from xbench.board.reliability import correlations, reliability
from xbench.board.significance import Comparison
from xbench.board.table import Key, image_table, keyed, ranks_of, summary_table
from xbench.errors import XbenchError
from xbench.result import Result


@dataclasses.dataclass(frozen=True)
class Board:
    """Results with what is said of them; made by ``make_board``.

    Args:
        results: the cells, one per subset, classifier, method and metric.
        title: one line.
        description: what the board asks, in markdown of its author; it is written as it is.
        reproduce: the command that makes the results again, or "".
        benchmarks: of a board of several benchmarks, their names and the keys of their columns; empty for a board of one.
        repeats: the same cells at other seeds, one list of results per seed; they say how far the ranking depends on it.
    """

    results: tuple[Result, ...]
    title: str
    description: str = ""
    reproduce: str = ""
    benchmarks: Mapping[str, Sequence[Key]] = dataclasses.field(default_factory=dict)
    repeats: tuple[tuple[Result, ...], ...] = ()

    @cached_property
    def _measured(self) -> pd.DataFrame:
        return summary_table(self.results)

    @cached_property
    def scores(self) -> dict[Key, list[ColumnScores]]:
        """The ranked methods' scores by column; see ``xbench.board.columns.ranked_scores``."""
        return ranked_scores(self.results, self._measured)

    @cached_property
    def comparisons(self) -> dict[Key, Comparison]:
        """By column, which of its ranked methods the data can tell apart."""
        return compare_columns(self.scores)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per column and method; see ``xbench.board.table.summary_table`` and ``with_ranges``."""
        return with_ranges(self._measured, self.comparisons)

    @cached_property
    def images(self) -> pd.DataFrame:
        """One row per column, method and image; see ``xbench.board.table.image_table``."""
        return image_table(self.results)

    @cached_property
    def ranks(self) -> RankMatrix:
        """How often each method took each rank, over all ranked columns."""
        return rank_matrix(ranks_of(self.summary))

    @cached_property
    def rank_intervals(self) -> pd.DataFrame:
        """95 % intervals of the mean ranks: ``low`` and ``high`` by method; see ``mean_rank_intervals``."""
        return mean_rank_intervals(list(self.scores.values()))

    @cached_property
    def reliability(self) -> pd.DataFrame:
        """How far each ranked column can be trusted; see ``xbench.board.reliability.reliability``."""
        return reliability(self.scores, self.comparisons, self.results, self.repeats)

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """Kendall's tau between the ranked columns; see ``xbench.board.reliability.correlations``."""
        return correlations(self.summary)

    @cached_property
    def parts(self) -> dict[str, Board]:
        """A board of several benchmarks taken apart: by name, the board of each one's columns."""
        return {name: self._only(set(keys)) for name, keys in self.benchmarks.items()}

    def _only(self, keys: set[Key]) -> Board:
        kept = tuple(result for result in self.results if keys & {key for key, _ in keyed(result)})
        return Board(kept, self.title)

    @cached_property
    def columns(self) -> dict[Key, pd.DataFrame]:
        """The rows of the summary by column, indexed by method."""
        groups = self.summary.groupby(list(Key._fields), sort=False)
        return {Key(*map(str, key)): rows.set_index("method") for key, rows in groups}

    @cached_property
    def ordered(self) -> list[str]:
        """All methods as a board lists them: by mean rank, then those without a rank, then the controls, each by name."""
        control = self.summary.groupby("method")["control"].first()
        ranked = list(self.ranks.mean.index)
        return ranked + sorted(set(control.index) - set(ranked), key=lambda method: (control[method], method))


def make_board(
    results: Sequence[Result],
    title: str,
    description: str = "",
    reproduce: str = "",
    benchmarks: Mapping[str, Sequence[Result]] | None = None,
    repeats: Sequence[Sequence[Result]] = (),
) -> Board:
    """A board of results; ``benchmarks`` says which of them belong to which benchmark, where there are several.

    Raises XbenchError if there is none, if a cell is there twice, if two results declare a column differently, or if a result
    does not have one score per image in each of its columns.
    """
    if not results:
        raise XbenchError("a board needs at least one result")
    seen: set[tuple[str, ...]] = set()
    columns: dict[tuple[str, ...], object] = {}
    for result in results:
        cell = f"{result.metric} x {result.method} on {result.subset} x {result.classifier}"
        name = (result.subset, result.classifier, result.metric, result.method)
        if name in seen:
            raise XbenchError(f"{cell} is there twice (other seeds or versions?): give a board one result per cell")
        seen.add(name)
        for key, column in keyed(result):
            if columns.setdefault(key, column) != column:
                raise XbenchError(
                    f"{cell}: column {column.name!r} is declared otherwise by another result; run the metric again"
                )
            count = len(result.scores.get(column.name, ()))
            if result.status == "ok" and not count == len(result.ids) > 0:
                raise XbenchError(f"{cell}: column {column.name!r} has {count} scores for {len(result.ids)} images")
    parts = {
        name: tuple(dict.fromkeys(key for result in of for key, _ in keyed(result))) for name, of in (benchmarks or {}).items()
    }
    return Board(tuple(results), title, description, reproduce, parts, tuple(map(tuple, repeats)))

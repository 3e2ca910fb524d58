"""The board: results, summed up, ranked and ready to be written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import pandas as pd

from xbench.board.ranks import RankMatrix, rank_matrix
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
    """

    results: tuple[Result, ...]
    title: str
    description: str = ""
    reproduce: str = ""

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per column and method; see ``xbench.board.table.summary_table``."""
        return summary_table(self.results)

    @cached_property
    def images(self) -> pd.DataFrame:
        """One row per column, method and image; see ``xbench.board.table.image_table``."""
        return image_table(self.results)

    @cached_property
    def ranks(self) -> RankMatrix:
        """How often each method took each rank, over all ranked columns."""
        return rank_matrix(ranks_of(self.summary))

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


def make_board(results: Sequence[Result], title: str, description: str = "", reproduce: str = "") -> Board:
    """A board of results.

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
    return Board(tuple(results), title, description, reproduce)

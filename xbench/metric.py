"""Metrics: one score per image from an explainer, a batch and its maps."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.explainer import Explainer
from xbench.method import Method
from xbench.registry import Entry, Registry
from xbench.subset import Batch
from xbench.types import Maps, Scores


@dataclasses.dataclass(frozen=True)
class Column:
    """One named score of a metric.

    ``higher_is_better`` is None for a score that is reported and not ranked.
    """

    name: str
    title: str
    higher_is_better: bool | None
    unit: str = ""


@dataclasses.dataclass
class Scored:
    """What a metric computed for a batch.

    ``scores`` holds per column one value per image (b,); ``curves`` per name a tensor (b, n); ``reasons`` says, per column and
    image index, why a score is NaN; ``record`` holds sums (seconds, counts) that are added up over the chunks of a cell.
    """

    scores: dict[str, Scores]
    curves: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    reasons: dict[str, dict[int, str]] = dataclasses.field(default_factory=dict)
    record: dict[str, float] = dataclasses.field(default_factory=dict)


class Metric(Entry):
    """A metric: subclass as a frozen dataclass of parameters and implement ``__call__`` and ``cost``.

    Class attributes:
        columns: the named scores, with direction and unit.
        uses_maps: False if the metric asks the explainer for other maps than the method's own.
    """

    columns: ClassVar[tuple[Column, ...]] = ()
    uses_maps: ClassVar[bool] = True

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """Scores of every column, one value per image; ``maps`` (b, h, w) is None where ``uses_maps`` is False."""
        raise NotImplementedError

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """Classifier passes per image of one call when no map is stored; those for the argument ``maps`` are left out."""
        raise NotImplementedError

    def explains(self, method: Method, classifier: Classifier) -> list[Method]:
        """The methods whose maps of the batch a call reads from the store, beside the argument ``maps``.

        Their passes are in ``cost``; the planner counts them once for all metrics that read the same maps.
        """
        return []

    def fits(self, method: Method, classifier: Classifier) -> int:
        """How often a cell trains the method anew with its reduced recipe, whatever the number of images."""
        return 0

    def not_applicable(self, method: Method, classifier: Classifier) -> str | None:
        """Why the metric has no value for this method, or None."""
        return None


METRICS: Registry[Metric] = Registry("metric", "metrics")

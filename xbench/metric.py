"""Metrics: one score per image from an explainer, a batch and its maps."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, NamedTuple, Self

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


class Point(NamedTuple):
    """An image that the classifier is asked about in one forward pass; the answer is shared, see `xbench.trajectory`.

    ``name`` says what is done to the image; ``of_map`` whether that depends on the method's map.
    """

    name: str
    of_map: bool


class Metric(Entry):
    """A metric: subclass as a frozen dataclass of parameters and implement ``__call__`` and ``cost``.

    A parameter that is None may be chosen on images of the held-out part: then ``calibration_images`` and ``calibrate`` too.

    Class attributes:
        columns: the named scores, with direction and unit.
        uses_maps: False if the metric asks the explainer for other maps than the method's own.
        needs_boxes: True if it reads ``Batch.boxes``; without them it does not apply.
        takes_masks: True if ``Batch.masks`` will do as well, and take the boxes' place where an image has one.
        curve_axis: of the curves that are worth drawing over their points: what the points are, the value at the first, and at
            the last (None: one more for every point); None if the curves are no such thing.
        target_rule: the class explained, ``Batch.target``: the predicted one, or the image's label.
        measured: columns that hold what was measured on this machine, such as seconds: no seed gives them again, and results
            are stored under a key that names the machine.
    """

    columns: ClassVar[tuple[Column, ...]] = ()
    uses_maps: ClassVar[bool] = True
    needs_boxes: ClassVar[bool] = False
    takes_masks: ClassVar[bool] = False
    curve_axis: ClassVar[tuple[str, float, float | None] | None] = None
    target_rule: ClassVar[Literal["predicted", "label"]] = "predicted"
    measured: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """Scores of every column, one value per image; ``maps`` (b, h, w) is None where ``uses_maps`` is False."""
        raise NotImplementedError

    def cost(self, method: Method, classifier: Classifier) -> Passes:
        """Classifier passes per image of one call when no map is stored; those for the argument ``maps`` are left out."""
        raise NotImplementedError

    @property
    def alone(self) -> float:
        """The share of its maps for which the method is given one image at a time."""
        return 0.0

    @property
    def calibration_images(self) -> int:
        """On how many held-out images ``calibrate`` chooses at most; 0 if no parameter is left to choose."""
        return 0

    def calibrate(self, explainer: Explainer, heldout: Batch, maps: Maps | None) -> Self:
        """The metric with the parameters that are None chosen for this explainer, called once per cell before any score.

        ``heldout`` shares no image with those that are scored; ``maps`` are its maps, as in ``__call__``. Raises NotApplicable
        if the images allow no choice.
        """
        raise NotImplementedError

    def calibration_cost(self, classifier: Classifier) -> Passes:
        """Classifier passes of ``calibrate`` per held-out image; those for the argument ``maps`` are left out."""
        return Passes()

    def explains(self, method: Method, classifier: Classifier) -> list[Method]:
        """The methods whose maps of the batch a call reads from the store, beside the argument ``maps``.

        Their passes are in ``cost``; the planner counts them once for all metrics that read the same maps.
        """
        return []

    def points(self, method: Method, classifier: Classifier) -> list[Point]:
        """The images whose answers a call reads from the store, see `xbench.trajectory`.

        Their passes are in ``cost``; the planner counts them once for all metrics, and those not ``of_map`` for all methods.
        """
        return []

    def fits(self, method: Method, classifier: Classifier) -> int:
        """How often a cell trains the method anew with its reduced recipe, whatever the number of images."""
        return 0

    def not_applicable(self, method: Method, classifier: Classifier) -> str | None:
        """Why the metric has no value for this method, or None."""
        return None


METRICS: Registry[Metric] = Registry("metric", "metrics")

"""Cells, the tasks that they are computed in, and the plan that holds them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from xbench.checkpoints import Checkpoints
from xbench.classifier import Classifier, Passes
from xbench.errors import XbenchError
from xbench.explainer import Explainer
from xbench.method import Method, TrainedMethod
from xbench.metric import Metric, Point
from xbench.registry import digest
from xbench.result import Result
from xbench.run.suite import Suite
from xbench.store import PART_IMAGES, Store
from xbench.subset import Subset
from xbench.trajectory import WHOLE, image_answers, map_answers, whole_answers


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method under one metric on some images of one subset: the unit that is computed, stored and shown."""

    method: Method
    metric: Metric
    ids: tuple[str, ...]
    parts: Sequence[tuple[str, ...]]
    """The ids, in fixed chunks."""
    draws: tuple[tuple[int, ...], ...]
    key: str
    folder: Path
    not_applicable: str
    missing: tuple[int, ...]
    """Indices of the parts that the store does not have."""
    heldout: tuple[str, ...] = ()
    """The held-out images that the metric is calibrated on."""
    calibrated: bool = False
    """The store has the calibration."""

    @property
    def calibration(self) -> Path:
        """Where the store keeps the calibration, as a part of its own."""
        return self.folder / "calibration"

    @property
    def heldout_left(self) -> int:
        """Held-out images on which the metric is still to be calibrated."""
        return 0 if self.done or self.calibrated else len(self.heldout)

    @property
    def images_left(self) -> int:
        """Images whose scores are not stored."""
        return sum(len(self.parts[index]) for index in self.missing)

    def reads(self, classifier: Classifier) -> list[Method]:
        """The methods whose stored maps the cell reads, parameters filled in."""
        own = [self.method] if self.metric.uses_maps else []
        return [method.resolved(classifier.shape) for method in [*own, *self.metric.explains(self.method, classifier)]]

    @property
    def done(self) -> bool:
        """Nothing is left to compute."""
        return bool(self.not_applicable) or not self.missing


@dataclasses.dataclass(frozen=True)
class Task:
    """What is left of one method on one chunk of the images, under all metrics: the unit that processes share.

    ``cells`` lack their part ``index``; ``number`` counts all tasks of the suite, from 1, those that are stored included.
    """

    number: int
    index: int
    cells: tuple[Cell, ...]
    name: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cells of a suite on one classifier and subset, bound to a store."""

    suite: Suite
    classifier: Classifier
    subset: Subset
    checkpoints: Checkpoints
    store: Store
    limit: int | None = None
    cells: Sequence[Cell] = ()

    @functools.cached_property
    def heldout(self) -> Subset:
        """The images to calibrate metrics on; XbenchError if the dataset has none, or if some of them are scored as well."""
        subset = self.checkpoints.dataset.load("heldout")
        shared = set(subset.ids) & set(self.subset.ids)
        if shared or not subset.ids:
            share = f"and {self.subset.name!r} share {len(shared)} images" if shared else "is empty"
            raise XbenchError(f"{subset.name!r} {share}")
        return subset

    @functools.cached_property
    def has_boxes(self) -> bool:
        """Whether the subset says where the objects are."""
        return self.subset.read(self.subset.first(1))[2] is not None

    @property
    def todo(self) -> list[Cell]:
        """The cells that are not stored and do apply."""
        return [cell for cell in self.cells if not cell.done]

    @functools.cached_property
    def tasks(self) -> list[Task]:
        """What is to be computed, in order: method by method, chunk by chunk.

        Names and numbers are the same for every run of the suite on a store, whatever is stored already.
        """
        by_method: dict[Method, list[Cell]] = {}
        for cell in self.cells:
            by_method.setdefault(cell.method, []).append(cell)
        tasks = []
        number, subset = 0, self.subset.digest()
        for method, cells in by_method.items():
            name = digest([subset, self.classifier.identity, method.identity, self.suite.seed])[:16]
            for index in range(max(len(cell.parts) for cell in cells)):
                number += 1
                lacking = tuple(cell for cell in cells if not cell.not_applicable and index in cell.missing)
                if lacking:
                    tasks.append(Task(number, index, lacking, f"{name}-{index:03d}"))
        return tasks

    def share(self, shard: tuple[int, int]) -> list[Task]:
        """The tasks of the i-th of n shares, (i, n) with i from 1."""
        i, n = shard
        return [task for task in self.tasks if task.number % n == i % n]

    @functools.cached_property
    def groups(self) -> dict[str, int]:
        """Which images are explained together, by id: cut where a chunk ends and where the images of some metric do.

        So stored maps do not depend on which cell asks first, and neither do their last digits.
        """
        cuts = {len(cell.ids) for cell in self.cells}
        scored = {image: _group(i, cuts) for i, image in enumerate(self.subset.ids)}
        cuts = {len(cell.heldout) for cell in self.cells}
        chosen = self.heldout.ids if any(cell.heldout for cell in self.cells) else ()
        return scored | {image: _group(i, cuts) for i, image in enumerate(chosen)}

    @property
    def total_passes(self) -> Passes:
        """Classifier passes of all that is left to compute."""
        return sum([*map(self.passes, self.todo), *self.map_passes(self.todo)], Passes())

    def passes(self, cell: Cell) -> Passes:
        """Classifier passes that a cell still needs, those for maps that are stored and shared left out.

        Those for answers that cells share (see `xbench.trajectory`) count for the first one, as they are made.
        """
        if cell.done:
            return Passes()
        each = cell.metric.cost(cell.method, self.classifier)
        answers = set(cell.metric.points(cell.method, self.classifier))
        shared = sum((m.cost_for(self.classifier) for m in cell.metric.explains(cell.method, self.classifier)), Passes())
        calibration = cell.metric.calibration_cost(self.classifier) * cell.heldout_left
        own = each - shared - Passes(forward=len(answers))
        return own * cell.images_left + Passes(forward=self._asks[cell.key]) + calibration + self.fit_passes(cell)

    @functools.cached_property
    def _asks(self) -> dict[str, int]:
        """Per key of a cell to compute: on how many images it asks the classifier first, for answers that are shared."""
        asked: set[tuple[object, ...]] = set()
        counts: dict[str, int] = {}
        for cell in self.todo:
            predicts = [WHOLE] if cell.metric.target_rule == "predicted" else []
            wanted = {*cell.metric.points(cell.method, self.classifier), *predicts}
            left = [image for index in cell.missing for image in cell.parts[index]]
            groups = [("evaluation", ids, wanted) for ids in self._grouped(left)]
            groups += [("heldout", ids, set(predicts)) for ids in self._grouped(cell.heldout[: cell.heldout_left])]
            counts[cell.key] = 0
            for part, ids, points in groups:
                fresh = {(part, ids[0], cell.method if point.of_map else None, point) for point in points} - asked
                asked |= fresh
                if fresh:
                    counts[cell.key] += len(ids) * len(self._unanswered({point for *_, point in fresh}, cell.method, ids))
        return counts

    def _grouped(self, ids: Sequence[str]) -> list[tuple[str, ...]]:
        """The ids, cut into those that are explained together; consecutive ones of a subset."""
        return [tuple(group) for _, group in itertools.groupby(ids, self.groups.__getitem__)]

    def _unanswered(self, points: set[Point], method: Method, ids: tuple[str, ...]) -> set[Point]:
        """The points whose answers on these images the store does not have."""
        left = set(points)
        for where in (whole_answers(self.classifier), image_answers(self.classifier, self.suite.seed)):
            left -= {Point(name, of_map=False) for name in self.store.answered(*where, ids)}
        if any(point.of_map for point in left):
            with contextlib.suppress(XbenchError):  # a damaged network has answered nothing; its cells will say what is wrong
                where = map_answers(Explainer(method, self.classifier, self.suite.seed, self.checkpoints))
                left -= {Point(name, of_map=True) for name in self.store.answered(*where, ids)}
        return left

    def fit_passes(self, cell: Cell) -> Passes:
        """Classifier passes of the trainings within a cell."""
        fits = cell.metric.fits(cell.method, self.classifier)
        if not fits or not isinstance(cell.method, TrainedMethod):
            return Passes()
        reduced = cell.method.replace(**cell.method.refit)
        images: int = fits * reduced.epochs * len(self.checkpoints.train)
        return reduced.fit_cost(self.classifier.shape) * images

    def map_passes(self, cells: Sequence[Cell]) -> list[Passes]:
        """Passes for the stored maps that each cell is the first to read: maps are made once however many cells read them."""
        images: dict[tuple[str, Method], int] = {}
        passes = []
        for cell in cells:
            reads = cell.reads(self.classifier)
            wanted = [("evaluation", method, cell.images_left) for method in reads]
            wanted += [("heldout", method, cell.heldout_left) for method in reads[:1] if cell.metric.uses_maps]
            added = Passes()
            for part, method, count in wanted:
                more = max(0, count - images.get((part, method), 0))
                images[part, method] = images.get((part, method), 0) + more
                added += method.cost_for(self.classifier) * more
            passes.append(added)
        return passes

    def empty_result(self, cell: Cell) -> Result:
        """The result of a cell before anything is known of it."""
        return Result(
            key=cell.key,
            subset=self.subset.name,
            classifier=self.classifier.name,
            method=cell.method.spec,
            metric=cell.metric.spec,
            columns=cell.metric.columns,
            status="n/a" if cell.not_applicable else "missing",
            control=cell.method.control,
            label=cell.method.label,
            reason=cell.not_applicable,
            ids=list(cell.ids),
            draws=[list(draw) for draw in cell.draws],
            curve_axis=cell.metric.curve_axis,
            map_passes=math.nan if cell.not_applicable else cell.method.cost_for(self.classifier).total,
        )


def chunks(ids: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The ids in the pieces that are computed and stored at a time."""
    return [ids[i : i + PART_IMAGES] for i in range(0, len(ids), PART_IMAGES)]


def _group(position: int, cuts: set[int]) -> int:
    """The number of the stretch of a list, cut at ``cuts`` and after every chunk, that a position lies in."""
    return position // PART_IMAGES + sum(cut <= position and cut % PART_IMAGES > 0 for cut in cuts)

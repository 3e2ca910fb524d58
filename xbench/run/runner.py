"""From cells to stored results."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import time
import traceback
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Literal, Protocol

import torch

from xbench.batches import out_of_memory
from xbench.errors import NotApplicable, XbenchError
from xbench.explainer import Explainer
from xbench.guard import Guard, deadline
from xbench.metric import METRICS, Metric, Scored
from xbench.result import Result
from xbench.run.cells import Cell, Plan, Task, chunks
from xbench.run.claims import claim
from xbench.run.form import use_form, without_form
from xbench.run.machine import machine
from xbench.run.progress import ELSEWHERE, Progress
from xbench.store import StoreError
from xbench.subset import Batch
from xbench.trajectory import whole_logits

Rule = Literal["predicted", "label"]
Shard = tuple[int, int]
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the disk, not of a method: no other cell would fare better."""
WAIT = 0.5
"""Seconds until a run that has nothing else to do looks again at what others have claimed."""
Batches = Callable[[Literal["evaluation", "heldout"], tuple[str, ...], Rule], Batch]


def run(plan: Plan, progress: Progress, shard: Shard = (1, 1), timeout: float | None = None) -> list[Result]:
    """Computes every cell that is not stored, part by part, and returns the results of all cells in order.

    Several runs on one store share the work: what another one has claimed is left to it and looked at again later. A cell that
    raises, that takes longer than ``timeout`` seconds for a part, or that changes the classifier becomes a failed result, and
    the others go on. ``shard`` (i, n), i from 1, takes the i-th of n shares only.

    Raises StoreError when the store cannot be written any more; what was stored stays.
    """
    worker = Worker(plan, progress, timeout)
    tasks = plan.share(shard)
    while tasks:
        left = [task for task in tasks if not worker.take(task)]
        if len(left) == len(tasks):
            time.sleep(WAIT)
        tasks = left
    return collect(plan)


class Follows(Protocol):
    """Who is told about every part of a cell, see `Progress`."""

    def start(self, cell: Cell) -> None: ...
    def finish(self, cell: Cell, index: int, outcome: str) -> None: ...


class Worker:
    """Computes tasks, one at a time, in this process."""

    def __init__(self, plan: Plan, progress: Follows, timeout: float | None = None) -> None:
        self.plan = plan
        self.progress = progress
        self.timeout = timeout
        if plan.todo:
            use_form(plan)
        self._guard = Guard(plan.classifier)
        self._failed: set[str] = set()
        self._began = time.time()
        # A few parts, which cells read one after the other: whole data sets would not fit into memory.
        self._batches: Batches = functools.lru_cache(maxsize=8)(functools.partial(make_batch, plan))

    def take(self, task: Task) -> bool:
        """Computes what is left of a task; False, at once, if another process is at it."""
        with claim(self.plan.store.root / "claims", task.name) as mine:
            for cell in task.cells if mine else ():
                if cell.key not in self._failed and not self._stored(cell, task.index):
                    self.progress.start(cell)
                    self.progress.finish(cell, task.index, self._outcome(cell, task.index))
                else:
                    self.progress.finish(cell, task.index, ELSEWHERE)
        return mine

    def _stored(self, cell: Cell, index: int) -> bool:
        """Whether another run has stored the part, or found that it cannot be computed, since this one began."""
        store = self.plan.store
        return store.read_part(cell.folder, index) is not None or store.status_since(cell.folder, self._began)

    def _outcome(self, cell: Cell, index: int) -> str:
        """Computes one part of a cell: done, n/a or failed."""
        again = False
        try:
            with deadline(self.timeout):
                content = run_part(self.plan, cell, index, self._batches)
            self._guard.check()
            self.plan.store.write_part(cell.folder, index, content)
        except StoreError:
            raise
        except NotApplicable as error:
            self.plan.store.write_status(cell.folder, {"status": "n/a", "reason": str(error)})
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK:  # a network fitted in the cell, an image decoded
                where = error.filename or "a file"
                raise StoreError(f"{where} cannot be written: {error.strerror}; what was stored before is kept") from error
            again = out_of_memory(error) and self._smaller(cell)
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            content = {"status": "failed", "reason": reason, "traceback": traceback.format_exc()}
            if not again:
                self.plan.store.write_status(cell.folder, content)
            with contextlib.suppress(XbenchError):
                self._guard.check()  # what failed in the middle may have left something behind
        else:
            return "done"
        if again:  # not within the handler, whose error still holds what filled the memory
            return self._outcome(cell, index)
        self._failed.add(cell.key)
        return str((self.plan.store.read_status(cell.folder) or {}).get("status"))

    def _smaller(self, cell: Cell) -> bool:
        """Halves the batches, which did not fit into memory; False, and the chosen size again, if they are single images."""
        classifier = self.plan.classifier
        if not classifier.halve(classifier.batch_size):
            classifier.batch_size = classifier.chosen_batch_size
            return False
        name = f"{cell.metric.spec} x {cell.method.spec}"
        self.plan.store.report(f"{name}: out of memory, tried again with batches of {classifier.batch_size}")
        return True


def run_part(plan: Plan, cell: Cell, index: int, batches: Batches) -> dict[str, Any]:
    """What is to be stored of one part of a cell; what its metric is calibrated to is chosen and stored before."""
    explainer = Explainer(cell.method, plan.classifier, plan.suite.seed, plan.checkpoints, plan.store)
    metric, calibration = calibrated(plan, cell, explainer, batches)
    ids = cell.parts[index]
    passes = plan.classifier.passes.copy()  # the prediction counts for whoever needs the batch first
    batch = batches("evaluation", ids, metric.target_rule)
    start = time.perf_counter()
    maps = explainer.maps(batch) if cell.metric.uses_maps else None
    explained = time.perf_counter()
    with without_form(plan.classifier) if cell.metric.measured else contextlib.nullcontext():
        scored = metric(explainer, batch, maps)
    check_scores(cell, scored, len(ids))
    used = plan.classifier.passes - passes
    form = plan.classifier.form
    record = {
        "seconds": round(time.perf_counter() - start, 3),
        "seconds_maps": round(explained - start, 3),
        "passes": dataclasses.asdict(used),
        "metric": scored.record,
        "batch_size": plan.classifier.batch_size,
        "precision": plan.classifier.precision,
        "form": {"name": "plain"} if form is None else {"name": form.name, "batch_size": form.batch_size},
        "machine": machine(str(plan.classifier.device)),
        **calibration,
    }
    return {
        "key": cell.key,
        "method": cell.method.spec,
        "metric": cell.metric.spec,
        "ids": list(ids),
        "scores": {name: values.tolist() for name, values in scored.scores.items()},
        "curves": {name: values.tolist() for name, values in scored.curves.items()},
        "reasons": {name: {ids[i]: why for i, why in by.items()} for name, by in scored.reasons.items() if by},
        "record": record,
    }


def calibrated(plan: Plan, cell: Cell, explainer: Explainer, batches: Batches) -> tuple[Metric, dict[str, Any]]:
    """The cell's metric with what it chooses on held-out images, and the record of that; stored before any image is scored.

    A cell that goes on after a kill reads what is stored, so that all its images are scored alike.
    """
    if not cell.heldout:
        return cell.metric, {}
    content = plan.store.read_part(cell.calibration, 0)
    if content is None:
        passes = plan.classifier.passes.copy()
        parts = [batches("heldout", ids, cell.metric.target_rule) for ids in chunks(cell.heldout)]
        start = time.perf_counter()
        maps = torch.cat([explainer.maps(part) for part in parts]) if cell.metric.uses_maps else None
        chosen = cell.metric.calibrate(explainer, joined(parts), maps)
        content = {
            "key": cell.key,
            "metric": chosen.spec,
            "ids": list(cell.heldout),
            "seconds": round(time.perf_counter() - start, 3),
            "passes": dataclasses.asdict(plan.classifier.passes - passes),
        }
        plan.store.write_part(cell.calibration, 0, content)
    about = {name: content[name] for name in ("metric", "seconds", "passes")}
    return METRICS.make(content["metric"]), {"calibration": {**about, "images": len(content["ids"])}}


def check_scores(cell: Cell, scored: Scored, count: int) -> None:
    """ValueError unless every column has one value per image, and every NaN a reason."""
    for column in cell.metric.columns:
        values = scored.scores.get(column.name)
        if values is None or tuple(values.shape) != (count,):
            got = "nothing" if values is None else f"shape {tuple(values.shape)}"
            raise ValueError(f"{cell.metric.spec} gave {got} for {column.name!r}, expected one value per image ({count},)")
        reasons = scored.reasons.get(column.name, {})
        unexplained = [i for i in values.isnan().nonzero()[:, 0].tolist() if i not in reasons]
        if unexplained:
            raise ValueError(f"{cell.metric.spec}: {column.name!r} is NaN without a reason for {len(unexplained)} images")


def make_batch(plan: Plan, part: Literal["evaluation", "heldout"], ids: tuple[str, ...], rule: Rule) -> Batch:
    """The images on the classifier's device, with the class to explain: the predicted one or the label."""
    subset = plan.subset if part == "evaluation" else plan.heldout
    x, label, boxes = subset.read(ids)
    masks = None if subset.masks is None else subset.masks(ids)
    device = plan.classifier.device
    if device.type == "cuda":  # a pinned copy is transferred while the processor goes on
        x, label = x.pin_memory(), label.pin_memory()
    x, label = x.to(device, non_blocking=True), label.to(device, non_blocking=True)
    groups = [plan.groups[image] for image in ids]
    target = label if rule == "label" else whole_logits(plan.classifier, ids, x, groups, plan.store).argmax(1)
    return Batch(list(ids), x, label, target, boxes, groups, masks)


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one."""
    tensors = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "label", "target")}
    boxes = [batch.boxes for batch in batches if batch.boxes is not None]
    masks = [batch.masks for batch in batches if batch.masks is not None]
    ids = [image for batch in batches for image in batch.ids]
    groups = [group for batch in batches for group in batch.groups or ()]
    return Batch(
        ids,
        **tensors,
        boxes=list(chain.from_iterable(boxes)) if boxes else None,
        groups=groups or None,
        masks=list(chain.from_iterable(masks)) if masks else None,
    )


def collect(plan: Plan) -> list[Result]:
    """The results of all cells of a plan as the store has them, in the plan's order; nothing is computed."""
    return [_stored(plan, cell) for cell in plan.cells]


def _stored(plan: Plan, cell: Cell) -> Result:
    empty = plan.empty_result(cell)
    if cell.not_applicable:
        return empty
    parts = [plan.store.read_part(cell.folder, i) for i in range(len(cell.parts))]
    if any(part is None for part in parts):
        status = plan.store.read_status(cell.folder)
        return dataclasses.replace(empty, **{k: status[k] for k in ("status", "reason")}) if status else empty
    whole: dict[str, Any] = {"scores": {}, "curves": {}, "reasons": {}}
    for part in parts:
        assert part is not None
        for kind in ("scores", "curves"):
            for name, values in part[kind].items():
                whole[kind].setdefault(name, []).extend(values)
        for name, reasons in part["reasons"].items():
            whole["reasons"].setdefault(name, {}).update(reasons)
    record = _total([part["record"] for part in parts if part is not None])
    return dataclasses.replace(empty, status="ok", record=record, **whole)


def _total(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The parts' records as one: numbers added up, the rest from the first."""
    total: dict[str, Any] = {}
    for name, first in records[0].items():
        values = [record[name] for record in records]
        if isinstance(first, dict) and name in ("passes", "metric"):
            total[name] = {key: sum(value.get(key, 0) for value in values) for key in first}
        else:
            total[name] = sum(values) if name.startswith("seconds") else first
    return total

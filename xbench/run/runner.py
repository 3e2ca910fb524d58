"""From cells to stored results."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch

import xbench
from xbench import __version__
from xbench.errors import NotApplicable
from xbench.explainer import Explainer
from xbench.metric import METRICS, Metric, Scored
from xbench.result import Result
from xbench.run.plan import Cell, Plan, chunks
from xbench.run.progress import Progress
from xbench.store import StoreError
from xbench.subset import Batch

Rule = Literal["predicted", "label"]
Batches = Callable[[Literal["evaluation", "heldout"], tuple[str, ...], Rule], Batch]


def run(plan: Plan, progress: Progress) -> list[Result]:
    """Computes every cell that is not stored, storing it part by part, and returns the results of all cells in order.

    A cell that raises becomes a failed result, and the others go on. Raises StoreError when the store cannot be written any
    more; what was stored stays.
    """
    # A few parts, which cells read one after the other: whole data sets would not fit into memory.
    batches = functools.lru_cache(maxsize=8)(functools.partial(make_batch, plan))
    for cell in plan.todo:
        progress.start(cell)
        outcome = "done"
        try:
            run_cell(plan, cell, batches)
        except StoreError:
            raise
        except NotApplicable as error:
            outcome = "n/a"
            plan.store.write_status(cell.folder, {"status": "n/a", "reason": str(error)})
        except Exception as error:
            outcome = "failed"
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            content = {"status": "failed", "reason": reason, "traceback": traceback.format_exc()}
            plan.store.write_status(cell.folder, content)
        progress.finish(cell, outcome)
    return collect(plan)


def run_cell(plan: Plan, cell: Cell, batches: Batches) -> None:
    """Computes and stores the missing parts of one cell, after what its metric is calibrated to."""
    explainer = Explainer(cell.method, plan.classifier, plan.suite.seed, plan.checkpoints, plan.store)
    metric, calibration = calibrated(plan, cell, explainer, batches)
    for index in cell.missing:
        ids = cell.parts[index]
        batch = batches("evaluation", ids, metric.target_rule)
        passes, start = plan.classifier.passes.copy(), time.perf_counter()
        maps = explainer.maps(batch) if cell.metric.uses_maps else None
        explained = time.perf_counter()
        scored = metric(explainer, batch, maps)
        check_scores(cell, scored, len(ids))
        used = plan.classifier.passes - passes
        record = {
            "seconds": round(time.perf_counter() - start, 3),
            "seconds_maps": round(explained - start, 3),
            "passes": dataclasses.asdict(used),
            "metric": scored.record,
            "batch_size": plan.classifier.batch_size,
            "machine": machine(str(plan.classifier.device)),
            **calibration,
        }
        content = {
            "key": cell.key,
            "method": cell.method.spec,
            "metric": cell.metric.spec,
            "ids": list(ids),
            "scores": {name: values.tolist() for name, values in scored.scores.items()},
            "curves": {name: values.tolist() for name, values in scored.curves.items()},
            "reasons": {name: {ids[i]: why for i, why in by.items()} for name, by in scored.reasons.items() if by},
            "record": record,
        }
        plan.store.write_part(cell.folder, index, content)


def calibrated(plan: Plan, cell: Cell, explainer: Explainer, batches: Batches) -> tuple[Metric, dict[str, Any]]:
    """The cell's metric with what it chooses on held-out images, and the record of that; stored before any image is scored.

    A cell that goes on after a kill reads what is stored, so that all its images are scored alike.
    """
    if not cell.heldout:
        return cell.metric, {}
    content = plan.store.read_part(cell.calibration, 0)
    if content is None:
        parts = [batches("heldout", ids, cell.metric.target_rule) for ids in chunks(cell.heldout)]
        passes, start = plan.classifier.passes.copy(), time.perf_counter()
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
    x, label, boxes = (plan.subset if part == "evaluation" else plan.heldout).read(ids)
    x, label = x.to(plan.classifier.device), label.to(plan.classifier.device)
    target = label if rule == "label" else plan.classifier.probabilities(x).argmax(1)
    return Batch(list(ids), x, label, target, boxes)


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one."""
    tensors = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "label", "target")}
    boxes = [batch.boxes for batch in batches if batch.boxes is not None]
    ids = [image for batch in batches for image in batch.ids]
    return Batch(ids, **tensors, boxes=list(chain.from_iterable(boxes)) if boxes else None)


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


@functools.cache
def machine(device: str) -> dict[str, str]:
    """Device, processor and versions, for a result's record."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    versions = {package: importlib.metadata.version(package) for package in ("torch", "captum", "numpy")}
    own = {"python": platform.python_version(), "xbench": __version__}
    about = {"device": device, "name": name, "threads": str(torch.get_num_threads()), **own, **versions}
    commit = revision()
    return {**about, "revision": commit} if commit else about


@functools.cache
def revision() -> str:
    """The commit of the checkout that xbench runs from, with "-dirty" where something is not committed; "" without one."""
    root = Path(xbench.__file__).resolve().parents[1]
    if not ((root / "pyproject.toml").exists() and (root / ".git").exists()):
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""

"""From a suite to cells: what is to be computed, what the store has, and what the rest costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from xbench.batches import default_batch_size
from xbench.checkpoints import Checkpoints
from xbench.classifier import CLASSIFIERS, Classifier
from xbench.errors import NotApplicable, XbenchError
from xbench.method import METHODS, Method, TrainedMethod
from xbench.metric import METRICS, Metric
from xbench.registry import digest
from xbench.rng import ImageRandom
from xbench.run.cells import Cell, Plan, chunks
from xbench.run.machine import hardware
from xbench.run.suite import Draws, MetricRun, Suite
from xbench.store import Store, user_cache
from xbench.subset import DATASETS, Dataset, Subset
from xbench.training import usable_device
from xbench.types import Precision


def make_plan(
    suite: Suite,
    store: Store,
    *,
    methods: Sequence[str] = (),
    limit: int | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    classifier: Classifier | None = None,
    dataset: Dataset | None = None,
    precision: Precision = "fp32",
) -> Plan:
    """Expands a suite into cells.

    ``classifier``, on its device already, and ``dataset`` are taken instead of those that the suite names.
    ``methods`` replaces the suite's list; ``limit`` caps every metric's number of images, those of its calibration too (own
    decision: a look at a few images should not wait for a hundred others). Raises XbenchError for anything
    unknown, before anything is computed.
    """
    classifier = classifier or load_classifier(suite.classifier, device)
    classifier.precision = precision
    classifier.batch_size = store.batch_size(
        classifier.weights_digest, device, default_batch_size(classifier.shape, device), batch_size
    )
    dataset = dataset or DATASETS.make(suite.dataset)
    subset = dataset.load("evaluation")
    check_match(subset, classifier)
    checkpoints = Checkpoints(dataset, user_cache() / "checkpoints", store.root / "checkpoints")
    for run in suite.metrics:
        if run.images is not None and run.images > len(subset):
            store.report(f"{run.spec}: the suite asks for {run.images} images, {subset.name} has {len(subset)}: all are taken")
    bound = Plan(suite, classifier, subset, checkpoints, store, limit)
    chosen = list(methods) or ([] if suite.methods == "all" else suite.methods)
    specs = [METHODS.make(spec) for spec in dict.fromkeys(chosen)]
    if not chosen:
        every = [METHODS.make(name) for name in METHODS.names()]
        specs = [method for method in every if suite.affordable(method, classifier)]
        if dear := [method.spec for method in every if method not in specs]:
            store.report(f"left out, above {suite.max_passes} passes a map: {', '.join(dear)}; take them in with -m")
    metrics = [_scored(run, bound) for run in suite.metrics]
    return dataclasses.replace(bound, cells=[_cell(scored, method, bound) for method in specs for scored in metrics])


@dataclasses.dataclass(frozen=True)
class _Scored:
    """What the cells of one metric have in common: made once, as there may be many cells and many images."""

    metric: Metric
    ids: tuple[str, ...]
    parts: Sequence[tuple[str, ...]]
    images: str
    """The digest of the ids."""
    draws: tuple[tuple[int, ...], ...]


def _scored(run: MetricRun, plan: Plan) -> _Scored:
    ids = plan.subset.first(min(run.images or len(plan.subset), plan.limit or len(plan.subset)))
    draws = _draws(run.draws, len(ids), plan.suite.seed)
    return _Scored(METRICS.make(run.spec), ids, chunks(ids), plan.subset.digest(ids), draws)


def _cell(scored: _Scored, method: Method, plan: Plan) -> Cell:
    """One cell, with its key and what the store has of it."""
    classifier, suite, metric = plan.classifier, plan.suite, scored.metric
    folder = plan.store.root
    cell = Cell(method, metric, scored.ids, scored.parts, scored.draws, key="", folder=folder, not_applicable="", missing=())
    reason = method.not_applicable(classifier) or metric.not_applicable(method, classifier)
    if not reason and metric.needs_boxes and not plan.has_boxes and not (metric.takes_masks and plan.subset.masks):
        reason = f"{plan.subset.name} has no boxes" + (" and no masks" if metric.takes_masks else "")
    heldout: tuple[str, ...] = ()
    states: list[str] = []
    if not reason:
        try:
            read = [m for m in cell.reads(classifier) if isinstance(m, TrainedMethod)]
            states = [_network(plan, m) for m in read]
            if metric.fits(method, classifier) and not len(plan.checkpoints.train):
                reason = f"{plan.checkpoints.dataset.spec} has no images to train on"
            heldout = _heldout(metric, plan)
        except NotApplicable as error:
            reason = str(error)
    identity = {
        "metric": metric.identity,
        "method": method.resolved(classifier.shape).identity,
        "checkpoints": states,
        "classifier": classifier.identity,
        "images": scored.images,
        "target": metric.target_rule,
        "precision": classifier.arithmetic.removeprefix("torch."),
        "seed": suite.seed,
    }
    if metric.measured:
        identity["machine"] = [hardware(str(classifier.device)), classifier.batch_size]
    if heldout:
        identity["heldout"] = plan.heldout.digest(heldout)
    place = (plan.subset.name, classifier.name, method.spec, metric.spec)
    key = digest(identity)
    folder = plan.store.cell(*place, key)
    if metric.measured and plan.store.read_only and not folder.is_dir():
        for other in plan.store.cells(*place):
            part = plan.store.read_part(other, 0)
            if part is not None and part["key"] == digest({**identity, "machine": _measured_on(part["record"])}):
                key, folder = part["key"], other
                break
    cell = dataclasses.replace(cell, key=key, folder=folder, not_applicable=reason or "", heldout=heldout)
    missing = () if reason else tuple(i for i in range(len(cell.parts)) if plan.store.read_part(folder, i) is None)
    calibrated = bool(heldout and missing) and plan.store.read_part(cell.calibration, 0) is not None
    return dataclasses.replace(cell, missing=missing, calibrated=calibrated)


def _measured_on(record: dict[str, Any]) -> list[Any]:
    """The machine in the key of a measured part, as its record tells it: boards of other machines' results are made again."""
    about = record.get("machine", {})
    return [{name: about.get(name) for name in ("device", "name", "threads")}, record.get("batch_size")]


def _network(plan: Plan, method: TrainedMethod) -> str:
    """The digest of a method's network; of a file that is damaged this word: what is wrong is said when its cells fail."""
    try:
        return plan.checkpoints.find(method, plan.classifier)[1]
    except NotApplicable:
        raise
    except XbenchError:
        return "damaged"


def _heldout(metric: Metric, plan: Plan) -> tuple[str, ...]:
    """The ids to calibrate the metric on; NotApplicable naming the parameters to give if the dataset has none to offer."""
    wanted = metric.calibration_images
    if not wanted:
        return ()
    try:
        return plan.heldout.first(min(wanted, plan.limit or wanted, len(plan.heldout)))
    except XbenchError as error:
        free = ", ".join(f"{name}=..." for name, value in metric.parameters.items() if value is None)
        raise NotApplicable(f"no held-out images to calibrate on ({error}): give {metric.name}({free})") from error


def load_classifier(spec: str, device: str) -> Classifier:
    """The classifier on a device; XbenchError if the device is unknown or not there."""
    return CLASSIFIERS.make(spec).load().to(usable_device(device))


def check_match(subset: Subset, classifier: Classifier) -> None:
    """XbenchError unless the subset's images and labels are the classifier's."""
    if subset.shape != classifier.shape:
        given, taken = subset.shape, classifier.shape
        raise XbenchError(f"subset {subset.name!r} has images {given}, classifier {classifier.name!r} takes {taken}")
    if subset.label_space != classifier.label_space:
        given_labels, own = subset.label_space, classifier.label_space
        raise XbenchError(f"subset {subset.name!r} has labels {given_labels!r}, classifier {classifier.name!r} has {own!r}")


def _draws(draws: Draws | None, images: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Seeded draws without replacement; a size above the number of images (under a limit) is cut to half of them."""
    if draws is None:
        return ()
    size = draws.size if draws.size < images else max(1, images // 2)
    random = ImageRandom(seed, [])
    return tuple(
        tuple(sorted(torch.randperm(images, generator=random.shared("draws", i))[:size].tolist())) for i in range(draws.count)
    )

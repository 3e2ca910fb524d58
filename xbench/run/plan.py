"""From a suite to cells: what is to be computed, what the store has, and what the rest costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from xbench.checkpoints import Checkpoints
from xbench.classifier import CLASSIFIERS, Classifier, default_batch_size
from xbench.errors import NotApplicable, XbenchError
from xbench.method import METHODS, Method, TrainedMethod
from xbench.metric import METRICS, Metric
from xbench.registry import digest
from xbench.rng import ImageRandom
from xbench.run.cells import Cell, Plan
from xbench.run.machine import hardware
from xbench.run.suite import Draws, MetricRun, Suite
from xbench.store import Store, user_cache
from xbench.subset import DATASETS, Subset
from xbench.types import Precision


def make_plan(
    suite: Suite,
    store: Store,
    *,
    methods: Sequence[str] = (),
    limit: int | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    precision: Precision = "fp32",
) -> Plan:
    """Expands a suite into cells.

    ``methods`` replaces the suite's list; ``limit`` caps every metric's number of images, those of its calibration too (own
    decision: a look at a few images should not wait for a hundred others). Raises XbenchError for anything
    unknown, before anything is computed.
    """
    classifier = load_classifier(suite.classifier, device)
    classifier.precision = precision
    classifier.batch_size = store.batch_size(
        classifier.weights_digest, device, default_batch_size(classifier.shape, device), batch_size
    )
    dataset = DATASETS.make(suite.dataset)
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
    cells = [_cell(METRICS.make(run.spec), run, method, bound) for method in specs for run in suite.metrics]
    return dataclasses.replace(bound, cells=cells)


def _cell(metric: Metric, run: MetricRun, method: Method, plan: Plan) -> Cell:
    """One cell, with its key and what the store has of it."""
    classifier, suite = plan.classifier, plan.suite
    ids = plan.subset.first(min(run.images or len(plan.subset), plan.limit or len(plan.subset)))
    draws = _draws(run.draws, len(ids), suite.seed)
    cell = Cell(method, metric, ids, draws, key="", folder=plan.store.root, not_applicable="", missing=())
    reason = method.not_applicable(classifier) or metric.not_applicable(method, classifier)
    if not reason and metric.needs_boxes and not plan.has_boxes:
        reason = f"{plan.subset.name} has no boxes"
    heldout: tuple[str, ...] = ()
    states: list[str] = []
    if not reason:
        try:
            read = [m for m in cell.reads(classifier) if isinstance(m, TrainedMethod)]
            states = [plan.checkpoints.find(m, classifier)[1] for m in read]
            heldout = _heldout(metric, plan)
        except NotApplicable as error:
            reason = str(error)
    identity = {
        "metric": metric.identity,
        "method": method.resolved(classifier.shape).identity,
        "checkpoints": states,
        "classifier": classifier.identity,
        "images": plan.subset.digest(ids),
        "target": metric.target_rule,
        "precision": classifier.arithmetic.removeprefix("torch."),
        "seed": suite.seed,
    }
    if metric.measured:
        identity["machine"] = [hardware(str(classifier.device)), classifier.batch_size]
    if heldout:
        identity["heldout"] = plan.heldout.digest(heldout)
    key = digest(identity)
    folder = plan.store.cell(plan.subset.name, classifier.name, method.spec, metric.spec, key)
    cell = dataclasses.replace(cell, key=key, folder=folder, not_applicable=reason or "", heldout=heldout)
    missing = () if reason else tuple(i for i in range(len(cell.parts)) if plan.store.read_part(folder, i) is None)
    calibrated = bool(heldout and missing) and plan.store.read_part(cell.calibration, 0) is not None
    return dataclasses.replace(cell, missing=missing, calibrated=calibrated)


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
    classifier = CLASSIFIERS.make(spec).load()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise XbenchError(f"device {device!r} cannot be used ({why}); valid: cpu, cuda, cuda:0, ...") from error
    return classifier.to(device)


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

"""From a suite to cells: what is to be computed, what the store has, and what the rest costs."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from xbench.checkpoints import Checkpoints
from xbench.classifier import CLASSIFIERS, Classifier, Passes, default_batch_size
from xbench.errors import NotApplicable, XbenchError
from xbench.method import METHODS, Method, TrainedMethod
from xbench.metric import METRICS, Metric
from xbench.registry import digest
from xbench.result import Result
from xbench.rng import ImageRandom
from xbench.run.suite import Draws, MetricRun, Suite
from xbench.store import PART_IMAGES, Store, user_cache
from xbench.subset import DATASETS, Subset


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method under one metric on some images of one subset: the unit that is computed, stored and shown."""

    method: Method
    metric: Metric
    ids: tuple[str, ...]
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
    def parts(self) -> list[tuple[str, ...]]:
        """The ids, in fixed chunks."""
        return chunks(self.ids)

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
        subset = DATASETS.make(self.suite.dataset).load("heldout")
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

    def passes(self, cell: Cell) -> Passes:
        """Classifier passes that a cell still needs, those for maps that are stored and shared left out."""
        if cell.done:
            return Passes()
        shape = self.classifier.shape
        each = cell.metric.cost(cell.method, self.classifier)
        shared = sum((m.cost(shape) for m in cell.metric.explains(cell.method, self.classifier)), Passes())
        calibration = cell.metric.calibration_cost(self.classifier) * cell.heldout_left
        return (each - shared) * cell.images_left + calibration + self._fit_passes(cell)

    def _fit_passes(self, cell: Cell) -> Passes:
        """Classifier passes of the trainings within a cell."""
        fits = cell.metric.fits(cell.method, self.classifier)
        if not fits or not isinstance(cell.method, TrainedMethod):
            return Passes()
        reduced = cell.method.replace(**cell.method.refit)
        return reduced.fit_cost(self.classifier.shape) * int(fits * reduced.epochs * len(self.checkpoints.train))

    def map_passes(self, cells: Sequence[Cell]) -> Passes:
        """Passes for the stored maps that the cells read, each made once however many of them read it."""
        images: dict[tuple[str, Method], int] = {}
        for cell in cells:
            reads = cell.reads(self.classifier)
            wanted = [("evaluation", method, cell.images_left) for method in reads]
            wanted += [("heldout", method, cell.heldout_left) for method in reads[:1] if cell.metric.uses_maps]
            for part, method, count in wanted:
                images[part, method] = max(images.get((part, method), 0), count)
        return sum((method.cost(self.classifier.shape) * count for (_, method), count in images.items()), Passes())

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
            map_passes=float("nan") if cell.not_applicable else cell.method.cost(self.classifier.shape).total,
        )


def make_plan(
    suite: Suite,
    store: Store,
    *,
    methods: Sequence[str] = (),
    limit: int | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
) -> Plan:
    """Expands a suite into cells.

    ``methods`` replaces the suite's list; ``limit`` caps every metric's number of images, those of its calibration too (own
    decision: a look at a few images should not wait for a hundred others). Raises XbenchError for anything
    unknown, before anything is computed.
    """
    classifier = load_classifier(suite.classifier, device)
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
    chosen = dict.fromkeys(methods or ([] if suite.methods == "all" else suite.methods))
    specs = [METHODS.make(spec) for spec in chosen]
    if not chosen:
        every = [METHODS.make(name) for name in METHODS.names()]
        specs = [method for method in every if suite.affordable(method, classifier.shape)]
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
        "precision": "float32",
        "seed": suite.seed,
    }
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


def chunks(ids: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The ids in the pieces that are computed and stored at a time."""
    return [ids[i : i + PART_IMAGES] for i in range(0, len(ids), PART_IMAGES)]


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
        taken = f"classifier {classifier.name!r} takes {classifier.shape}"
        raise XbenchError(f"subset {subset.name!r} has images {subset.shape}, {taken}")
    if subset.label_space != classifier.label_space:
        own = f"classifier {classifier.name!r} has {classifier.label_space!r}"
        raise XbenchError(f"subset {subset.name!r} has labels {subset.label_space!r}, {own}")


def measured_speed(classifier: Classifier) -> tuple[float, float]:
    """Seconds per image of a forward pass, and of a backward pass on top, measured in a moment on its device."""
    passes = classifier.passes.copy()
    x = torch.rand((classifier.batch_size, *classifier.shape), device=classifier.device)
    forward = _median_seconds(lambda: classifier.probabilities(x)) / len(x)
    x.requires_grad_()
    both = _median_seconds(lambda: torch.autograd.grad(classifier(x).sum(), x)) / len(x)
    classifier.passes = passes
    return forward, max(both - forward, 0.0)


def _median_seconds(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[1]


def _draws(draws: Draws | None, images: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Seeded draws without replacement; a size above the number of images (under a limit) is cut to half of them."""
    if draws is None:
        return ()
    size = draws.size if draws.size < images else max(1, images // 2)
    random = ImageRandom(seed, [])
    return tuple(
        tuple(sorted(torch.randperm(images, generator=random.shared("draws", i))[:size].tolist())) for i in range(draws.count)
    )

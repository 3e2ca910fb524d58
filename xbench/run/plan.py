"""From a suite to cells: what is to be computed, what the store has, and what the rest costs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import torch

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
from xbench.training import Checkpoints


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

    @property
    def parts(self) -> list[tuple[str, ...]]:
        """The ids, in fixed chunks."""
        return [self.ids[i : i + PART_IMAGES] for i in range(0, len(self.ids), PART_IMAGES)]

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
        return (each - shared) * cell.images_left + self._fit_passes(cell)

    def _fit_passes(self, cell: Cell) -> Passes:
        """Classifier passes of the trainings within a cell."""
        fits = cell.metric.fits(cell.method, self.classifier)
        if not fits or not isinstance(cell.method, TrainedMethod):
            return Passes()
        reduced = cell.method.replace(**cell.method.refit)
        images: int = fits * reduced.epochs * len(self.checkpoints.train)
        return reduced.fit_cost(self.classifier.shape) * images

    def map_passes(self, cells: Sequence[Cell]) -> Passes:
        """Passes for the stored maps that the cells read, each made once however many of them read it."""
        images: dict[Method, int] = {}
        for cell in cells:
            for method in cell.reads(self.classifier):
                images[method] = max(images.get(method, 0), cell.images_left)
        return sum((method.cost(self.classifier.shape) * count for method, count in images.items()), Passes())

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

    ``methods`` replaces the suite's list; ``limit`` caps every metric's number of images. Raises XbenchError for anything
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
    chosen = list(methods) or (METHODS.names() if suite.methods == "all" else suite.methods)
    specs = [METHODS.make(spec) for spec in dict.fromkeys(chosen)]
    cells = [_cell(METRICS.make(run.spec), run, method, bound) for method in specs for run in suite.metrics]
    return dataclasses.replace(bound, cells=cells)


def _cell(metric: Metric, run: MetricRun, method: Method, plan: Plan) -> Cell:
    """One cell, with its key and what the store has of it."""
    classifier, suite = plan.classifier, plan.suite
    ids = plan.subset.first(min(run.images or len(plan.subset), plan.limit or len(plan.subset)))
    draws = _draws(run.draws, len(ids), suite.seed)
    cell = Cell(method, metric, ids, draws, key="", folder=plan.store.root, not_applicable="", missing=())
    reason = method.not_applicable(classifier) or metric.not_applicable(method, classifier)
    states: list[str] = []
    if not reason:
        try:
            read = [m for m in cell.reads(classifier) if isinstance(m, TrainedMethod)]
            states = [plan.checkpoints.find(m, classifier)[1] for m in read]
        except NotApplicable as error:
            reason = str(error)
    key = digest(
        {
            "metric": metric.identity,
            "method": method.resolved(classifier.shape).identity,
            "checkpoints": states,
            "classifier": classifier.identity,
            "images": plan.subset.digest(ids),
            "target": "predicted",
            "precision": "float32",
            "seed": suite.seed,
        }
    )
    folder = plan.store.cell(plan.subset.name, classifier.name, method.spec, metric.spec, key)
    cell = dataclasses.replace(cell, key=key, folder=folder, not_applicable=reason or "")
    missing = () if reason else tuple(i for i in range(len(cell.parts)) if plan.store.read_part(folder, i) is None)
    return dataclasses.replace(cell, missing=missing)


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


def measured_speed(classifier: Classifier) -> tuple[float, float]:
    """Seconds per image of a forward pass, and of a backward pass on top, measured in a moment on its device."""
    passes = classifier.passes.copy()
    x = torch.rand((classifier.batch_size, *classifier.shape), device=classifier.device)
    forward = _median_seconds(lambda: classifier.probabilities(x)) / len(x)
    x.requires_grad_()
    both = _median_seconds(lambda: torch.autograd.grad(classifier(x).sum(), x)) / len(x)
    classifier.passes = passes
    return forward, max(both - forward, 0.0)


def _median_seconds(call: object) -> float:
    assert callable(call)
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

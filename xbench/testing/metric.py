"""The conformance checks of metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from xbench.explainer import Explainer
from xbench.guard import changes
from xbench.method import METHODS, Method, TrainedMethod
from xbench.metric import METRICS, Metric, Scored
from xbench.subset import Batch
from xbench.testing.entry import conclude, declaration, entry
from xbench.testing.state import global_seed, snapshot
from xbench.testing.tiny import tiny_batch, tiny_classifier
from xbench.types import Maps

SHAPE = (1, 28, 28)


def check_metric(spec: str) -> None:
    """Checks a metric against the rules of the benchmark.

    ``spec`` is a name, checked with the metric's ``quick`` parameters, or a full spec, checked as it stands. On a tiny random
    classifier, with the methods ``gradient`` and ``random`` or, where it does not apply to them, the cheapest registered one:
    one score per image for every column, NaN only with a reason; equal scores for equal seeds whatever the global generators
    hold; the same scores whatever the batch (1e-5 in float32; 1e-6 in float64 where the metric explains images itself, because
    a search amplifies rounding); passes counted as ``cost`` says; classifier, images and maps left as found; constant maps. A
    metric that calibrates itself is checked as it is after its calibration on four other images, which must leave nothing to
    choose, give the same twice, and count as ``calibration_cost`` says. Boxes are there only if it declares ``needs_boxes``.
    The columns that it declares to be ``measured`` need not be equal from call to call.

    Raises AssertionError listing every rule that is broken, XbenchError for an unknown name or parameter; an exception of the
    metric is not caught.
    """
    conclude(_findings(entry(METRICS, spec)))


def _findings(metric: Metric) -> Iterator[str]:
    yield from declaration(METRICS, metric)
    names = [column.name for column in metric.columns]
    if not names or len(set(names)) < len(names):
        yield f"columns must be named and different: {names}"
    if metric.measured - set(names):
        yield f"measured names no column: {sorted(metric.measured - set(names))}"
    methods = _methods(metric)
    if not methods:
        yield "applies to no registered method that needs no training, so that its scores are not checked"
        return
    # A metric that asks the explainer for maps costs what the method costs; where only one method tells, it may do so.
    costs = [metric.cost(method, tiny_classifier(SHAPE)) for method in methods]
    explains = not metric.uses_maps or len(methods) == 1 or costs[0] != costs[1]
    for method in methods:
        ready, wrong = _calibrated(metric, method)
        yield from wrong
        if wrong:
            continue
        yield from _with(ready, method)
        yield from _batches(ready, method, *((torch.float64, 1e-6) if explains else (torch.float32, 1e-5)))


def _methods(metric: Metric) -> list[Method]:
    classifier = tiny_classifier(SHAPE)

    def applies(method: Method) -> bool:
        return method.not_applicable(classifier) is None and metric.not_applicable(method, classifier) is None

    usual = [method for method in (METHODS.quick("gradient"), METHODS.quick("random")) if applies(method)]
    if usual:
        return usual
    others = [METHODS.quick(name) for name in METHODS.names()]
    others = [method for method in others if not isinstance(method, TrainedMethod) and applies(method)]
    return sorted(others, key=lambda method: metric.cost(method, classifier).forward)[:1]


def _calibrated(metric: Metric, method: Method) -> tuple[Metric, list[str]]:
    """The metric with what it chooses on held-out images, itself if nothing is to choose; and the rules that this breaks."""
    if not metric.calibration_images:
        return metric, []
    where = f"{metric.spec} of {method.spec}"
    explainer, heldout, maps = _bound(metric, method, torch.float32, images=min(4, metric.calibration_images), seed=1)
    classifier = explainer.classifier
    before, passes = snapshot(classifier), classifier.passes.copy()
    with global_seed(1):
        ready = metric.calibrate(explainer, heldout, maps)
    used, expected = classifier.passes - passes, metric.calibration_cost(classifier) * len(heldout)
    wrong = []
    if used != expected:
        wrong.append(f"{where}: {used} counted for {len(heldout)} held-out images, calibration_cost() says {expected}")
    if changed := changes(before, snapshot(classifier)):
        wrong.append(f"{where}: calibrate() does not leave as found: {', '.join(changed)}")
    if ready.calibration_images:
        wrong.append(f"{where}: calibrate() leaves something to choose: {ready.spec}")
    if METRICS.make(ready.spec) != ready:
        wrong.append(f"{where}: the spec {ready.spec!r} makes {METRICS.make(ready.spec)!r}")
    with global_seed(2):
        again = metric.calibrate(explainer, heldout, maps)
    if again != ready:
        wrong.append(f"{where}: two calibrations with the same seed give {ready.spec} and {again.spec}")
    return ready, wrong


def _with(metric: Metric, method: Method) -> Iterator[str]:
    where = f"{metric.spec} of {method.spec}"
    explainer, batch, maps = _bound(metric, method, torch.float32)
    classifier = explainer.classifier
    pixels, given = batch.x.clone(), None if maps is None else maps.clone()
    with global_seed(1):
        before, passes = snapshot(classifier), classifier.passes.copy()
        scored = metric(explainer, batch, maps)
        changed = changes(before, snapshot(classifier))
    used, expected = classifier.passes - passes, metric.cost(method, classifier) * len(batch)
    yield from _valid(where, metric, scored, len(batch))
    if changed:
        yield f"{where}: does not leave as found: {', '.join(changed)}"
    if not batch.x.equal(pixels) or (maps is not None and given is not None and not maps.equal(given)):
        yield f"{where}: changes the images or maps that it is given"
    if used != expected:
        yield f"{where}: {used} counted for {len(batch)} images, cost() says {expected}"
    with global_seed(2):
        again = metric(explainer, batch, maps)
    for name in scored.scores.keys() - metric.measured:
        if not torch.allclose(again.scores[name], scored.scores[name], rtol=0, atol=0, equal_nan=True):
            yield f"{where}: two calls with the same seed give different {name}"
    if maps is not None:
        for value in (0.0, 1.0):
            constant = metric(explainer, batch, torch.full_like(maps, value))
            yield from _valid(f"{where}, maps of {value}", metric, constant, len(batch))


def _bound(
    metric: Metric, method: Method, dtype: torch.dtype, images: int = 3, seed: int = 0
) -> tuple[Explainer, Batch, Maps | None]:
    explainer = Explainer(method, tiny_classifier(SHAPE).to(dtype))
    batch = tiny_batch(images, explainer.classifier, seed)
    if metric.target_rule == "label":
        batch = dataclasses.replace(batch, target=batch.label)
    if not metric.needs_boxes:
        batch = dataclasses.replace(batch, boxes=None)
    return explainer, batch, explainer.maps(batch) if metric.uses_maps else None


def _valid(where: str, metric: Metric, scored: Scored, count: int) -> Iterator[str]:
    names = [column.name for column in metric.columns]
    if list(scored.scores) != names:
        yield f"{where}: scores {list(scored.scores)}, the columns are {names}"
    for name, values in scored.scores.items():
        if tuple(values.shape) != (count,) or not values.is_floating_point():
            yield f"{where}: {name} is a {values.dtype} tensor of shape {tuple(values.shape)}, expected one value per image"
            continue
        undefined, explained = set(values.isnan().nonzero()[:, 0].tolist()), set(scored.reasons.get(name, {}))
        if bool(values.isinf().any()):
            yield f"{where}: {name} is infinite"
        if undefined != explained:
            yield f"{where}: {name} is NaN for images {sorted(undefined)}, reasons are given for {sorted(explained)}"
    for name, curve in scored.curves.items():
        if curve.ndim != 2 or len(curve) != count:
            yield f"{where}: curve {name!r} has shape {tuple(curve.shape)}, expected ({count}, n)"


def _batches(metric: Metric, method: Method, dtype: torch.dtype, tolerance: float) -> Iterator[str]:
    explainer, batch, maps = _bound(metric, method, dtype)
    explainer.classifier.batch_size = 64
    whole = metric(explainer, batch, maps).scores
    explainer.classifier.batch_size = 5
    singles = [metric(explainer, _part(batch, i), None if maps is None else maps[i : i + 1]).scores for i in range(len(batch))]
    for name in whole.keys() - metric.measured:
        values = whole[name]
        parts = torch.cat([single[name] for single in singles])
        if not torch.allclose(parts, values, rtol=tolerance, atol=tolerance, equal_nan=True):
            far, where = float((parts - values).abs().max()), f"{metric.spec} of {method.spec}"
            yield f"{where}: {name} differs by {far:.1e} between batch sizes, {tolerance} is allowed in {dtype}"


def _part(batch: Batch, i: int) -> Batch:
    return dataclasses.replace(
        batch,
        ids=batch.ids[i : i + 1],
        x=batch.x[i : i + 1],
        label=batch.label[i : i + 1],
        target=batch.target[i : i + 1],
        boxes=None if batch.boxes is None else batch.boxes[i : i + 1],
        masks=None if batch.masks is None else batch.masks[i : i + 1],
    )

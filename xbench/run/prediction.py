"""How long the cells of a plan will take: their passes, and the fills that are made up for them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from xbench.batches import STREAMED
from xbench.classifier import Classifier, Passes
from xbench.errors import XbenchError
from xbench.fill import CONSTANT, FILLS, make_filler
from xbench.method import TrainedMethod
from xbench.rng import ImageRandom
from xbench.run.cells import Cell, Plan
from xbench.run.machine import Speed, once
from xbench.training import method_recipe, step_of

BESIDE = 0.03
"""Seconds that a part takes beside its passes (reading, arithmetic, writing), as `benchmarks/plan.py` shows on the digits."""
OWN = 0.2
"""What they compute themselves, as a share of the time of their passes (own decision: between what the suites show there)."""
HOLES = 7
"""Observed and missing cells along each side of an image, on which the time of a fill is measured."""


class Prediction(NamedTuple):
    """Seconds of a cell, and what of them is classifier passes."""

    seconds: float
    passes: float


def predicted(plan: Plan, speed: Speed) -> dict[str, Prediction]:
    """What is left to compute, by cell key; shared maps count for the first cell that reads them.

    A pass of a method or metric whose fill is made up from the kept pixels costs that fill too, and a training within a cell
    what its steps take; both are measured here.
    """
    found: dict[str, Prediction] = {}
    fills: dict[str, float] = {}
    todo = plan.todo
    for cell, maps in zip(todo, plan.map_passes(todo), strict=True):
        fitting = plan.fit_passes(cell)
        own = plan.passes(cell) - fitting
        explaining, scoring = (maps, own) if cell.metric.uses_maps else (maps + own, Passes())
        passes = speed.seconds(own + maps, _together(cell))
        filling = 0.0
        for entry, used in ((cell.method, explaining), (cell.metric, scoring)):
            fill = str(getattr(entry, "fill", ""))
            if fill not in fills:
                fills[fill] = fill_seconds(fill, plan.classifier)
            filling += used.forward * fills[fill]
        whole = BESIDE * len(cell.missing) + (1 + OWN) * passes + filling + fit_seconds(cell, plan)
        found[cell.key] = Prediction(whole, passes + speed.seconds(fitting))
    return found


def fill_seconds(spec: str, classifier: Classifier) -> float:
    """Seconds in which a fill is made for one image; 0 if it is the same for every mask, or cannot be made."""
    if spec.partition(":")[0] not in {*FILLS} - {*CONSTANT}:  # an entry's own kind of fill among them
        return 0.0
    count = min(classifier.batch_size, max(1, STREAMED // 8 // math.prod(classifier.shape[1:])))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((count, *classifier.shape), generator=generator).to(classifier.mean)
    cells = (torch.rand((count, 1, HOLES, HOLES), generator=generator) < 0.5).to(x)
    keep = torch.nn.functional.interpolate(cells, size=classifier.shape[1:])
    image = torch.arange(count, device=x.device)
    try:
        fill = make_filler(spec, classifier, x, ImageRandom(0, [str(i) for i in range(count)]))
        return min(once(lambda: fill(image, image, keep), classifier.device) for _ in range(3)) / count
    except XbenchError:  # which fails the cells that need it
        return 0.0


def fit_seconds(cell: Cell, plan: Plan) -> float:
    """Seconds of the trainings within a cell, of which one step is made."""
    method, classifier = cell.method, plan.classifier
    fits = cell.metric.fits(method, classifier)
    if not fits or not isinstance(method, TrainedMethod):
        return 0.0
    recipe = method_recipe(method.replace(**method.refit), classifier, plan.checkpoints.train)
    passes = classifier.passes.copy()
    try:
        step = step_of(recipe)
        step()
        taken = once(step, classifier.device)
    except Exception:  # whatever a method's own code raises fails its cell, not the plan
        return 0.0
    finally:
        classifier.passes = passes
    return fits * recipe.epochs * math.ceil(len(recipe.train) / recipe.batch) * taken


def _together(cell: Cell) -> float:
    """How many images take a gradient at a time, the harmonic mean: a method that optimises has no more than it is given."""
    if not cell.method.iterative:
        return math.inf
    alone, part = cell.metric.alone, cell.images_left / len(cell.missing)
    return 1 / (alone + (1 - alone) / part)

"""The pictures of a board's site: images of the plan's subset with the maps that its store has."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xbench.errors import NotApplicable

if TYPE_CHECKING:
    from xbench.board.gallery import Gallery
    from xbench.method import Method
    from xbench.run.cells import Plan
    from xbench.subset import Batch
    from xbench.types import Maps

IMAGES = 6
"""Images of a gallery, the first of the subset (own decision)."""


class _NotStored(Exception):
    pass


def gallery(plan: Plan) -> Gallery | None:
    """The first images of the subset with the stored maps of every method of the plan; None if the store has no such maps.

    Nothing is explained for it but by trained networks, which takes no classifier pass.
    """
    from xbench.board.gallery import Gallery, image_uri, map_uri
    from xbench.run.runner import make_batch
    from xbench.store import Store

    count = min([IMAGES, *(len(cell.ids) for cell in plan.cells)])
    methods = list(dict.fromkeys(cell.method for cell in plan.cells if not cell.not_applicable))
    if not (methods and (plan.store.root / "maps").is_dir()):
        return None
    # A gallery adds nothing to a store.
    plan = dataclasses.replace(plan, store=Store(plan.store.root, plan.store.report, create=False))
    batch = make_batch(plan, "evaluation", plan.subset.first(count), "predicted")
    maps, uncertainty = {}, {}
    for method in methods:
        found = _maps(plan, method, batch)
        if found is None:
            continue
        maps[method.spec] = tuple(map_uri(one) for one in found.numpy())
        other = method.uncertainty()
        unsure = None if other is None else _maps(plan, other, batch)
        if unsure is not None:
            uncertainty[method.spec] = tuple(map_uri(one) for one in unsure.numpy())
    images: Sequence[tuple[str, str]] = [(i, image_uri(x)) for i, x in zip(batch.ids, batch.x.cpu().numpy(), strict=True)]
    return Gallery(tuple(images), maps, uncertainty) if maps else None


def _maps(plan: Plan, method: Method, batch: Batch) -> Maps | None:
    """The maps on the CPU, from the store, or from a trained network, which takes no classifier pass; else None."""
    from xbench.explainer import Explainer
    from xbench.method import TrainedMethod

    def compute(missing: list[int]) -> Maps:
        if not isinstance(method, TrainedMethod):  # whatever it costs, and whether or not it fails, was seen in the run
            raise _NotStored
        return explainer(batch.x[missing], batch.target[missing], [batch.ids[i] for i in missing])

    explainer = Explainer(method, plan.classifier, plan.suite.seed, plan.checkpoints)
    keys = [f"{image}@{target}" for image, target in zip(batch.ids, batch.target.tolist(), strict=True)]
    try:
        label = f"{plan.classifier.name}/{explainer.method.spec}"
        return plan.store.maps(explainer.key, label, keys, [0] * len(keys), compute)
    except (NotApplicable, _NotStored):
        return None

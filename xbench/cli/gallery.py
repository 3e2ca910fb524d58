"""The pictures of a board's site: images of the plan's subset with the maps that its store has."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xbench.errors import NotApplicable, XbenchError

if TYPE_CHECKING:
    from xbench.board.gallery import Gallery, Shades
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

    maps: dict[str, tuple[str, ...]] = {}
    uncertainty: dict[str, tuple[str, ...]] = {}
    batch = _batch(plan)
    for method, of, found, _ in _pictures(plan, batch):
        (uncertainty if of else maps)[(of or method).spec] = tuple(map_uri(one) for one in found)
    if batch is None or not maps:
        return None
    images: Sequence[tuple[str, str]] = [(i, image_uri(x)) for i, x in zip(batch.ids, batch.x.cpu().numpy(), strict=True)]
    return Gallery(tuple(images), maps, uncertainty, plan.subset.name)


def publish_gallery(plan: Plan, to: Path) -> None:
    """Writes a gallery's maps below ``to``, one small picture per method, in 256 steps: enough for the same gallery."""
    from xbench.board.gallery import strip
    from xbench.files import atomic

    for _, _, found, name in _pictures(plan, _batch(plan)):
        with atomic(to / name) as temporary:
            temporary.write_bytes(strip(found))


def _batch(plan: Plan) -> Batch | None:
    """The images of the gallery with the class that is explained; None where the store has no maps at all."""
    from xbench.run.runner import make_batch

    if not (plan.cells and any((plan.store.root / folder).is_dir() for folder in ("maps", "gallery"))):
        return None
    count = min([IMAGES, *(len(cell.ids) for cell in plan.cells)])
    rules = {cell.metric.target_rule for cell in plan.cells}
    return make_batch(_only_read(plan), "evaluation", plan.subset.first(count), rules.pop() if len(rules) == 1 else "predicted")


def _only_read(plan: Plan) -> Plan:
    """A gallery adds nothing to a store."""
    from xbench.store import Store

    return dataclasses.replace(plan, store=Store(plan.store.root, plan.store.report, create=False))


def _pictures(plan: Plan, batch: Batch | None) -> Iterator[tuple[Method, Method | None, list[Shades], Path]]:
    """What a method, or the uncertainty of the second method, shows on each image, and where a published store keeps it."""
    if batch is None:
        return
    for method in dict.fromkeys(cell.method for cell in plan.cells if not cell.not_applicable):
        other = method.uncertainty()
        for one, of in [(method, None), *([] if other is None else [(other, method)])]:
            found = _shades(plan, one, batch)
            if found is None:
                break
            yield one, of, *found


def _shades(plan: Plan, method: Method, batch: Batch) -> tuple[list[Shades], Path] | None:
    """The maps from the published pictures, from the store, or from a trained network, which takes no classifier pass."""
    from xbench.board.gallery import shades, taken_apart
    from xbench.explainer import Explainer
    from xbench.method import TrainedMethod
    from xbench.registry import digest
    from xbench.store import slug

    store = _only_read(plan).store

    def compute(missing: list[int]) -> Maps:
        if not isinstance(method, TrainedMethod):  # whatever it costs, and whether or not it fails, was seen in the run
            raise _NotStored
        return explainer(batch.x[missing], batch.target[missing], [batch.ids[i] for i in missing])

    explainer = Explainer(method, plan.classifier, plan.suite.seed, plan.checkpoints)
    keys = [f"{image}@{target}" for image, target in zip(batch.ids, batch.target.tolist(), strict=True)]
    try:
        key, spec = explainer.key, explainer.method.spec
        name = Path("gallery") / slug(plan.classifier.name) / f"{slug(spec)}-{digest([key, *keys])[:16]}.png"
        if (store.root / name).is_file():
            try:
                return taken_apart((store.root / name).read_bytes(), len(keys)), name
            except XbenchError as error:
                store.report(f"{store.root / name}: {error}; left out")
        maps = store.maps(key, f"{plan.classifier.name}/{spec}", keys, [0] * len(keys), compute)
    except (NotApplicable, _NotStored):
        return None
    return [shades(one) for one in maps.numpy()], name

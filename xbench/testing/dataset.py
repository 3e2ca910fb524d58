"""The conformance checks of datasets."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from itertools import combinations

import torch

from xbench.classifier import CLASSIFIERS
from xbench.errors import XbenchError
from xbench.subset import DATASETS, Dataset, Part, Subset
from xbench.testing.entry import conclude, declaration, entry

IMAGES = 8
"""Images read of each part."""


def check_dataset(spec: str) -> None:
    """Checks a dataset against the rules of the benchmark.

    Of every part that it has (``evaluation`` is required): unique ids, and no id in two parts, except that ``test`` may contain
    ``heldout`` and ``evaluation``; float32 images in [0, 1] of the declared shape; int64 labels that the dataset's classifier
    has logits for; boxes inside the image; masks of its size; the same image in whatever order ids are read; the same ids and
    digest from a second load.

    Raises AssertionError listing every rule that is broken, XbenchError for an unknown name or parameter, or if files, an extra
    or the classifier are missing.
    """
    conclude(_findings(entry(DATASETS, spec)))


def _findings(dataset: Dataset) -> Iterator[str]:
    yield from declaration(DATASETS, dataset)
    parts = {"evaluation": dataset.load()}
    for part in typing.get_args(Part):
        try:
            parts[part] = dataset.load(part)
        except XbenchError:  # it has no such part
            continue
        again = dataset.load(part)
        if (again.ids, again.digest()) != (parts[part].ids, parts[part].digest()):
            yield f"two loads of {part} give different ids or digests"
    for one, other in combinations(parts, 2):
        shared = set(parts[one].ids) & set(parts[other].ids)
        if shared and {one, other} not in ({"test", "heldout"}, {"test", "evaluation"}):
            yield f"{one} and {other} share {len(shared)} images, for instance {min(shared)!r}"
    classifier = CLASSIFIERS.make(dataset.classifier).load() if dataset.classifier else None
    for part, subset in parts.items():
        yield from _images(part, subset, None if classifier is None else classifier.classes)
        if classifier is not None and (subset.shape, subset.label_space) != (classifier.shape, classifier.label_space):
            yield f"{part}: its shape {subset.shape} or label_space {subset.label_space!r} is not that of {classifier.name!r}"


def _images(part: str, subset: Subset, classes: int | None) -> Iterator[str]:
    if not subset.ids or len(set(subset.ids)) < len(subset):
        yield f"{part}: has no ids, or some twice"
        return
    ids = [subset.ids[i] for i in torch.linspace(0, len(subset) - 1, min(IMAGES, len(subset))).long().tolist()]
    x, label, boxes = subset.read(ids)
    if tuple(x.shape) != (len(ids), *subset.shape) or x.dtype != torch.float32:
        yield f"{part}: images are {x.dtype} of shape {tuple(x.shape)}, expected torch.float32 of {(len(ids), *subset.shape)}"
    if not bool((x >= 0).all() and (x <= 1).all()):
        yield f"{part}: pixels run from {float(x.min())} to {float(x.max())}, expected [0, 1]"
    if tuple(label.shape) != (len(ids),) or label.dtype != torch.int64:
        yield f"{part}: labels are {label.dtype} of shape {tuple(label.shape)}, expected torch.int64 of ({len(ids)},)"
    elif int(label.min()) < 0 or (classes is not None and int(label.max()) >= classes):
        yield f"{part}: labels run from {int(label.min())} to {int(label.max())}, expected 0..{classes - 1 if classes else ''}"
    h, w = subset.shape[1:]
    for image, box in zip(ids, boxes or [], strict=boxes is not None):
        inside = box.ndim == 2 and box.shape[1] == 4 and box.is_floating_point() and bool((box >= 0).all())
        if not inside or not bool((box[:, :2] < box[:, 2:]).all() and (box[:, 2:] <= torch.tensor([w, h])).all()):
            yield f"{part}: the boxes of {image!r} must be floats (n, 4), x0 < x1 <= {w}, y0 < y1 <= {h}: {box.tolist()}"
    for image, mask in zip(ids, subset.masks(ids) if subset.masks else [], strict=subset.masks is not None):
        if mask is not None and (tuple(mask.shape) != (h, w) or mask.dtype != torch.bool):
            yield f"{part}: the mask of {image!r} is {mask.dtype} of shape {tuple(mask.shape)}, expected torch.bool of {(h, w)}"
    back, back_label, back_boxes = subset.read(ids[::-1])
    same_boxes = (boxes is None) == (back_boxes is None) and all(
        a.equal(b) for a, b in zip(boxes or [], (back_boxes or [])[::-1], strict=True)
    )
    if not (back.flip(0).equal(x) and back_label.flip(0).equal(label) and same_boxes):
        yield f"{part}: the images, labels or boxes of an id depend on the order of reading"

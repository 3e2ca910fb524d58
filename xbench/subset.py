"""Datasets and the fixed lists of their images that results are computed on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from torch import Tensor

from xbench.classifier import Classifier
from xbench.errors import XbenchError
from xbench.registry import Entry, Registry
from xbench.types import Images, Labels

Part = Literal["train", "test", "heldout", "evaluation"]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some images of a subset: ids, pixels (b, c, h, w) in [0, 1], labels (b,), the class explained (b,), boxes and masks.

    ``boxes`` holds per image a float tensor (n, 4) of (x0, y0, x1, y1) in pixels, x1 and y1 exclusive, or is None. ``masks``
    holds per image a bool tensor (h, w), True on the object, or None where that image has no mask; or is None.
    ``groups`` numbers the images: those of one number are explained together, whoever asks for their maps first; None: all.
    """

    ids: list[str]
    x: Images
    label: Labels
    target: Labels
    boxes: list[Tensor] | None = None
    groups: list[int] | None = None
    masks: list[Tensor | None] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Subset:
    """A fixed, ordered list of image ids of one dataset, pinned by a checksum of ids and pixels' source.

    Args:
        name: the dataset's spec, with the part behind a colon where it is not ``evaluation``.
        ids: image ids in their fixed order.
        shape: (c, h, w) of every image.
        label_space: the meaning of the labels; must equal the classifier's.
        source_digest: sha256 of the files that the pixels come from.
        read: ids to (images, labels, boxes or None); images are decoded when they are asked for.
        contents: sha256 of what each image is made from, for a dataset that knows it without decoding (see ``checksums``).
        masks: ids to masks as in ``Batch``; None for a dataset without masks. ``source_digest`` and ``contents`` pin them too.
    """

    name: str
    ids: tuple[str, ...]
    shape: tuple[int, int, int]
    label_space: str
    source_digest: str
    read: Callable[[Sequence[str]], tuple[Images, Labels, list[Tensor] | None]] = dataclasses.field(repr=False)
    contents: Mapping[str, str] | None = dataclasses.field(default=None, repr=False)
    masks: Callable[[Sequence[str]], list[Tensor | None]] | None = dataclasses.field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def checksums(self, ids: Sequence[str]) -> list[str]:
        """A sha256 per image that changes with its pixels, label or boxes: of its file if known, else of what is read."""
        if self.contents is not None:
            return [self.contents[image] for image in ids]
        sums: list[str] = []
        for part in chunked(ids):
            x, label, boxes = self.read(part)
            pixels = (x * 255).round().byte().numpy()
            for i, image in enumerate(pixels):
                sha = hashlib.sha256(f"{image.shape} {int(label[i])} {boxes and boxes[i].tolist()}".encode())
                sha.update(image.tobytes())
                sums.append(sha.hexdigest())
        return sums

    def listing(self, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
        """Label and checksum of each image: what a file of chosen images holds."""
        labels = [int(label) for part in chunked(ids) for label in self.read(part)[1]]
        return dict(zip(ids, zip(labels, self.checksums(ids), strict=True), strict=True))

    def digest(self, ids: Sequence[str] | None = None) -> str:
        """sha256 over the source and the given ids in order (all ids by default)."""
        text = "\n".join([self.source_digest, *(self.ids if ids is None else ids)])
        return hashlib.sha256(text.encode()).hexdigest()

    def first(self, count: int | None) -> tuple[str, ...]:
        """The first ``count`` ids (all if None); XbenchError if the subset has fewer."""
        if count is not None and count > len(self.ids):
            raise XbenchError(f"subset {self.name!r} has {len(self.ids)} images, {count} were asked for")
        return self.ids[:count]


def confident_ids(subset: Subset, classifier: Classifier, threshold: float = 0.5) -> list[str]:
    """The ids that the classifier predicts correctly with a probability above ``threshold``, in order (the VP paper's rule)."""
    keep: list[str] = []
    for ids in chunked(subset.ids):
        x, label, _ = subset.read(ids)
        confidence, predicted = classifier.probabilities(x.to(classifier.device)).max(1)
        good = (predicted.cpu() == label) & (confidence.cpu() > threshold)
        keep += [image for image, ok in zip(ids, good.tolist(), strict=True) if ok]
    return keep


def chunked(ids: Sequence[str], size: int = 256) -> Iterator[Sequence[str]]:
    """The ids in pieces that fit into memory once read (at 224 px some 150 MB)."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


class Dataset(Entry):
    """A dataset that can be loaded by spec."""

    classifier: ClassVar[str] = ""
    """Spec of the classifier that the evaluation ids were selected with, and that suites use by default."""

    def load(self, part: Part = "evaluation") -> Subset:
        """One disjoint part of the dataset; XbenchError if files or an extra are missing or their checksum differs."""
        raise NotImplementedError


DATASETS: Registry[Dataset] = Registry("dataset", "datasets")

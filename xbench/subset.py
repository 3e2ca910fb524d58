"""Datasets and the fixed lists of their images that results are computed on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from torch import Tensor

from xbench.classifier import Classifier
from xbench.errors import XbenchError
from xbench.registry import Entry, Registry
from xbench.types import Images, Labels

Part = Literal["train", "test", "heldout", "evaluation"]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some images of a subset: ids, pixels (b, c, h, w) in [0, 1], labels (b,), the class explained (b,), and boxes.

    ``boxes`` holds per image a float tensor (n, 4) of (x0, y0, x1, y1) in pixels, x1 and y1 exclusive, or is None.
    ``groups`` numbers the images: those of one number are explained together, whoever asks for their maps first; None: all.
    """

    ids: list[str]
    x: Images
    label: Labels
    target: Labels
    boxes: list[Tensor] | None = None
    groups: list[int] | None = None

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
    """

    name: str
    ids: tuple[str, ...]
    shape: tuple[int, int, int]
    label_space: str
    source_digest: str
    read: Callable[[Sequence[str]], tuple[Images, Labels, list[Tensor] | None]] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

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
    for start in range(0, len(subset), 1024):
        ids = subset.ids[start : start + 1024]
        x, label, _ = subset.read(ids)
        confidence, predicted = classifier.probabilities(x.to(classifier.device)).max(1)
        good = (predicted.cpu() == label) & (confidence.cpu() > threshold)
        keep += [image for image, ok in zip(ids, good.tolist(), strict=True) if ok]
    return keep


class Dataset(Entry):
    """A dataset that can be loaded by spec."""

    classifier: ClassVar[str] = ""
    """Spec of the classifier that the evaluation ids were selected with, and that suites use by default."""

    def load(self, part: Part = "evaluation") -> Subset:
        """One disjoint part of the dataset; XbenchError if files or an extra are missing or their checksum differs."""
        raise NotImplementedError


DATASETS: Registry[Dataset] = Registry("dataset", "datasets")

"""What CIFAR-10 and CIFAR-100 share: their files, in Python's and in the binary version."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from torchvision.datasets import CIFAR10

from xbench.datasets._arrays import Bytes, array_subset, download_folder, fetch
from xbench.datasets._files import no_heldout
from xbench.errors import XbenchError
from xbench.subset import Dataset, Part, Subset

BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class Cifar(Dataset):
    """Base of the two; subclasses say what their files are called."""

    path: str | None = None
    download: bool = False

    torchvision: ClassVar[type[CIFAR10]]
    binary: ClassVar[tuple[str, list[str], list[str]]]
    """The binary version's folder and its files to train and to test."""
    labels_each: ClassVar[int] = 1
    """Bytes before an image there, of which the last is the label."""
    classes: ClassVar[int]

    @property
    def _owner(self) -> str:
        return f"dataset {self.name!r}"

    def load(self, part: Part = "evaluation") -> Subset:
        """The images of ``part``."""
        if part == "heldout":
            raise no_heldout(self)
        own = "train" if part == "train" else "test"
        images, labels = _arrays(self, own == "train", download_folder() if self.path is None else Path(self.path).expanduser())
        name = self.name if part == "evaluation" else f"{self.name}:{part}"
        return array_subset(self._owner, name, own, images, labels, self.classes, f"cifar-{self.classes}")


@functools.cache
def _arrays(dataset: Cifar, train: bool, root: Path) -> tuple[Bytes, Bytes]:
    owner, kind = dataset._owner, dataset.torchvision
    if dataset.download:
        fetch(owner, lambda: kind(str(root), download=True), root)
    folder, *files = dataset.binary
    for place in (root / folder, root):
        if (place / files[0 if train else 1][0]).exists():
            return _binary(dataset, [place / name for name in files[0 if train else 1]])
    # Where torchvision looks, and whether the files are its own: their checksums are compared before they are read.
    above = root.parent if root.name == kind.base_folder else root
    names = [name for name, _ in (kind.train_list if train else kind.test_list)]
    absent = [name for name in names if not (above / kind.base_folder / name).exists()]
    if absent:
        raise XbenchError(
            f"{owner}: {above / kind.base_folder / absent[0]} does not exist, nor {folder}: unpack {kind.filename} or "
            f'{folder} into a folder and give {dataset.name}(path="FOLDER"), or download it once with '
            f"{dataset.name}(download=True); class folders of images are read by imagefolder"
        )
    try:
        data = kind(str(above), train=train)
    except RuntimeError as error:
        raise XbenchError(f"{owner}: a file in {above / kind.base_folder} is not the original: {error}") from error
    return np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), np.array(data.targets, np.uint8)


def _binary(dataset: Cifar, paths: list[Path]) -> tuple[Bytes, Bytes]:
    record = dataset.labels_each + BYTES
    tables = []
    for path in paths:
        try:
            data = np.frombuffer(path.read_bytes(), np.uint8)
        except OSError as error:
            raise XbenchError(f"{dataset._owner}: {path} cannot be read: {error.strerror}") from error
        if len(data) % record:
            raise XbenchError(f"{dataset._owner}: {path} holds {len(data)} bytes, no multiple of {record}: it is damaged")
        tables.append(data.reshape(-1, record))
    table = np.concatenate(tables)
    return table[:, dataset.labels_each :].reshape(-1, 3, 32, 32), table[:, dataset.labels_each - 1].copy()

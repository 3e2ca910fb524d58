"""CIFAR-10: 32-px colour pictures of 10 classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torchvision.datasets import CIFAR10

from xbench.datasets._cifar import Cifar
from xbench.subset import DATASETS


@DATASETS.register("cifar10")
@dataclass(frozen=True)
class Cifar10(Cifar):
    """CIFAR-10 (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html): 50 000 pictures to train on, 10 000 to test.

    Images (b, 3, 32, 32) in [0, 1], labels 0..9, no boxes. ``evaluation`` is the whole test part; there is no
    ``heldout`` (`subset` has one). ``path`` is the folder that holds the unpacked Python version, as torchvision's, or the
    binary version, or is one of them; by default the user's cache, where ``download=True`` lets torchvision put the first.

    Raises XbenchError if a file is missing, naming it and where to put it, or damaged.
    """

    torchvision: ClassVar[type[CIFAR10]] = CIFAR10
    binary: ClassVar[tuple[str, list[str], list[str]]] = (
        "cifar-10-batches-bin",
        [f"data_batch_{i}.bin" for i in range(1, 6)],
        ["test_batch.bin"],
    )
    classes: ClassVar[int] = 10

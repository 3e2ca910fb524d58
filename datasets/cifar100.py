"""CIFAR-100: 32-px colour pictures of 100 classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torchvision.datasets import CIFAR10, CIFAR100

from xbench.datasets._cifar import Cifar
from xbench.subset import DATASETS


@DATASETS.register("cifar100")
@dataclass(frozen=True)
class Cifar100(Cifar):
    """CIFAR-100 (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html): 50 000 pictures to train on, 10 000 to test.

    Images (b, 3, 32, 32) in [0, 1], labels 0..99 (the fine ones), no boxes. ``evaluation`` is the whole test part; there is no
    ``heldout`` (`subset` has one). ``path`` is the folder that holds the unpacked Python version, as torchvision's, or the
    binary version, or is one of them; by default the user's cache, where ``download=True`` lets torchvision put the first.

    Raises XbenchError if a file is missing, naming it and where to put it, or damaged.
    """

    torchvision: ClassVar[type[CIFAR10]] = CIFAR100
    binary: ClassVar[tuple[str, list[str], list[str]]] = ("cifar-100-binary", ["train.bin"], ["test.bin"])
    labels_each: ClassVar[int] = 2
    classes: ClassVar[int] = 100

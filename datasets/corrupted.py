"""Corrupted: any dataset with noise, blur or other light, after ImageNet-C."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from xbench.datasets._corruptions import KINDS, SMALL
from xbench.errors import unknown
from xbench.registry import digest
from xbench.rng import ImageRandom
from xbench.subset import DATASETS, Dataset, Part, Subset
from xbench.types import Images, Labels


@DATASETS.register("corrupted")
@dataclass(frozen=True)
class Corrupted(Dataset):
    """The images of ``dataset`` (a spec) under one corruption of ImageNet-C at ``severity`` 1..5; all else stays as it is.

    ``kind``: brightness, contrast, defocus_blur, gaussian_noise, impulse_noise, jpeg_compression, motion_blur, pixelate or
    shot_noise. Constants are ImageNet-C's, for images of up to 64 px CIFAR-10-C's. Images (b, c, h, w) in [0, 1]; noise and
    angles are drawn by ``seed`` and image id, so that the same image is always corrupted alike.

    Source: Hendrycks & Dietterich 2019, https://arxiv.org/abs/1903.12261, and the code that made the sets,
    https://github.com/hendrycks/robustness. Own decisions: the images are not saved as JPEG of quality 85 afterwards, nor
    rounded; the draws are others; grey images of one channel are taken for grey colours.

    Raises ValueError for an unknown kind or another severity.
    """

    dataset: str = "mnist"
    kind: str = "gaussian_noise"
    severity: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(str(unknown("kind", self.kind, KINDS)))
        if not 1 <= self.severity <= 5:
            raise ValueError(f"severity={self.severity}: valid are 1..5")

    def load(self, part: Part = "evaluation") -> Subset:
        """The corrupted images of the same part of the dataset."""
        base = DATASETS.make(self.dataset).load(part)
        name = self.replace(dataset=base.name.removesuffix(f":{part}")).spec
        how = [self.version, self.kind, self.severity, self.seed]
        return Subset(
            name=name if part == "evaluation" else f"{name}:{part}",
            ids=base.ids,
            shape=base.shape,
            label_space=base.label_space,
            source_digest=digest([how, base.source_digest]),
            read=functools.partial(self._read, base),
            masks=base.masks,
            contents=base.contents and {image: digest([how, sha256]) for image, sha256 in base.contents.items()},
        )

    def _read(self, base: Subset, ids: Sequence[str]) -> tuple[Images, Labels, list[Tensor] | None]:
        x, label, boxes = base.read(ids)
        apply, imagenet, cifar = KINDS[self.kind]
        constants = cifar if max(base.shape[1:]) <= SMALL else imagenet
        return apply(x, constants[self.severity - 1], ImageRandom(self.seed, ids)).clamp(0, 1), label, boxes

"""Mosaic: four images of different classes side by side, for the grid pointing game."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xbench.datasets._files import check_ids
from xbench.errors import XbenchError
from xbench.registry import digest
from xbench.rng import ImageRandom
from xbench.subset import DATASETS, Dataset, Part, Subset, chunked
from xbench.types import Images, Labels

OWNER = "dataset 'mosaic'"
Tile = tuple[list[str], int]


@DATASETS.register("mosaic")
@dataclass(frozen=True)
class Mosaic(Dataset):
    """``count`` mosaics of 2 x 2 images of different classes of ``dataset`` (a spec), for the grid pointing game.

    Images (b, c, 2h, 2w) in [0, 1], or (b, c, h, w) with ``shrink``, every 2 x 2 pixels averaged: for a classifier of fixed
    size (own decision). The label is the class of one of the four images; the box is its quadrant. Metrics that explain the
    label ask whether the map for it lies there; by chance a quarter does.

    The four classes, their places, an image of each and the place of the label are drawn with ``seed`` from the same part of
    ``dataset``, so that an image may be in several mosaics (own decision). As the papers say, take images that the classifier
    is sure of: ``dataset='subset(file="FILE")'``.

    Source: Boehle et al. 2021, https://arxiv.org/abs/2104.00032, section 5.1 (3 x 3 images); 2 x 2 as in Rao et al. 2022,
    https://arxiv.org/abs/2205.10435.

    Raises ValueError if ``count`` is below 1; XbenchError if the part has images of fewer than four classes.
    """

    dataset: str = "mnist"
    count: int = 200
    seed: int = 0
    shrink: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count={self.count}: must be at least 1")

    def load(self, part: Part = "evaluation") -> Subset:
        """Mosaics of images of the same part of the dataset."""
        base = DATASETS.make(self.dataset).load(part)
        tiles = {f"{part}/{i:05d}": tile for i, tile in enumerate(self._draw(part, base))}
        used = sorted({one for four, _ in tiles.values() for one in four})
        sums = dict(zip(used, base.checksums(used), strict=True))
        c, h, w = base.shape
        name = self.replace(dataset=base.name.removesuffix(f":{part}")).spec
        contents = {image: digest([[sums[one] for one in four], place, self.shrink]) for image, (four, place) in tiles.items()}
        return Subset(
            name=name if part == "evaluation" else f"{name}:{part}",
            ids=tuple(tiles),
            shape=(c, h, w) if self.shrink else (c, 2 * h, 2 * w),
            label_space=base.label_space,
            source_digest=digest(list(contents.items())),
            read=functools.partial(_read, base, tiles, self.shrink),
            contents=contents,
        )

    def _draw(self, part: Part, base: Subset) -> Iterator[Tile]:
        """The ids of four images, row by row, and the place of the label."""
        by_class: dict[int, list[str]] = {}
        for ids in chunked(base.ids):
            for image, label in zip(ids, base.read(ids)[1].tolist(), strict=True):
                by_class.setdefault(label, []).append(image)
        if len(by_class) < 4:
            raise XbenchError(f"{OWNER}: {base.name} has images of {len(by_class)} classes, four are needed")
        classes, random = sorted(by_class), ImageRandom(self.seed, [])
        for i in range(self.count):
            draw = random.shared(f"mosaic {part}", i)
            chosen = [classes[k] for k in torch.randperm(len(classes), generator=draw)[:4].tolist()]
            four = [by_class[k][int(torch.randint(len(by_class[k]), (), generator=draw))] for k in chosen]
            yield four, int(torch.randint(4, (), generator=draw))


def _read(base: Subset, tiles: Mapping[str, Tile], shrink: bool, ids: Sequence[str]) -> tuple[Images, Labels, list[Tensor]]:
    check_ids(OWNER, ids, tiles)
    x, labels, _ = base.read([image for name in ids for image in tiles[name][0]])
    b, (c, h, w) = len(ids), base.shape
    # (b, row, column, c, h, w) to (b, c, row, h, column, w)
    whole = x.view(b, 2, 2, c, h, w).permute(0, 3, 1, 4, 2, 5).reshape(b, c, 2 * h, 2 * w)
    places = torch.tensor([tiles[name][1] for name in ids])
    across, down = (w / 2, h / 2) if shrink else (w, h)
    corner = torch.stack([places % 2 * across, places // 2 * down], 1)
    boxes = torch.cat([corner, corner + torch.tensor([across, down])], 1)
    return F.avg_pool2d(whole, 2) if shrink else whole, labels.view(b, 4)[torch.arange(b), places], list(boxes[:, None].float())

"""CUB-200-2011: photos of birds with boxes, and with masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xbench.datasets._files import Item, file_subset, folder, lines, no_heldout
from xbench.datasets._pixels import Reduction
from xbench.errors import XbenchError
from xbench.subset import DATASETS, Dataset, Part, Subset

OWNER = "dataset 'cub200'"


@DATASETS.register("cub200")
@dataclass(frozen=True)
class Cub200(Dataset):
    """CUB-200-2011 (Wah et al. 2011, https://www.vision.caltech.edu/datasets/cub_200_2011): 200 birds, 11 788 photos.

    ``path`` is the unpacked folder CUB_200_2011 with images.txt, image_class_labels.txt, train_test_split.txt and
    bounding_boxes.txt, or its parent. 5 994 photos are to train on; ``evaluation`` is the whole test part, 5 794; there is no
    ``heldout`` (`subset` has one). An image's id is its path below the folder images.

    Images (b, 3, size, size) in [0, 1], reduced as those of `imagenet`; labels 0..199 (the file's less 1); the box of the bird,
    scaled and cut with its image.

    ``masks`` True reads the data set's segmentations too (own decision: only when asked for, so that a board's dataset says
    whether a bird is its box or its mask): the folder segmentations of segmentations.tgz, in CUB_200_2011 or beside it, with a
    PNG of the same path for each photo. A pixel is the bird's where most of the five annotators say so; a photo without a file
    has its box alone.

    Raises XbenchError saying what is missing and where to put it, or naming the file and line that is wrong.
    """

    path: str | None = None
    size: int = 224
    crop: float | None = None
    masks: bool = False

    def __post_init__(self) -> None:
        Reduction(self.size, self.crop).check()

    def load(self, part: Part = "evaluation") -> Subset:
        """The images of ``part``: all files are hashed now, the first time, and decoded when they are read."""
        if part == "heldout":
            raise no_heldout(self)
        root = folder(OWNER, self.path, "the unpacked folder CUB_200_2011 (www.vision.caltech.edu)")
        root = root / "CUB_200_2011" if (root / "CUB_200_2011").is_dir() else root
        names = {image: words[0] for image, words in _table(root / "images.txt", 1).items()}
        columns = {
            file: _table(root / file, count)
            for file, count in (("image_class_labels.txt", 1), ("train_test_split.txt", 1), ("bounding_boxes.txt", 4))
        }
        for file, rows in columns.items():
            if rows.keys() != names.keys():
                odd = min(rows.keys() ^ names.keys())
                raise XbenchError(
                    f"{OWNER}: {root / file} has {len(rows)} images, images.txt {len(names)}: {odd!r} is in one only"
                )
        labels, splits, boxes = columns.values()
        drawn = self._segmentations(root) if self.masks else None
        items = {}
        try:
            for image, name in names.items():
                if (splits[image] == ["1"]) == (part == "train"):
                    x, y, w, h = map(float, boxes[image])
                    mask = drawn / Path(name).with_suffix(".png") if drawn else None
                    mask = mask if mask and mask.exists() else None
                    items[name] = Item(root / "images" / name, int(labels[image][0]) - 1, [[x, y, x + w, y + h]], mask)
        except ValueError as error:
            raise XbenchError(f"{OWNER}: a file in {root} gives image {image} what is no number: {error}") from error
        if not items:
            raise XbenchError(f"{OWNER}: {root / 'train_test_split.txt'} lists no image for {part}")
        if self.masks and not any(item.mask for item in items.values()):
            raise XbenchError(f"{OWNER}: {drawn} has no PNG for any photo of {part}, for instance {next(iter(items))}")
        short = self.replace(path=None).spec
        name = short if part == "evaluation" else f"{short}:{part}"
        return file_subset(OWNER, name, root, items, Reduction(self.size, self.crop), "cub-200", self.version)

    def _segmentations(self, root: Path) -> Path:
        """The folder of masks; XbenchError saying where to put it."""
        folders = [root / "segmentations", root.parent / "segmentations"]
        found = next((path for path in folders if path.is_dir()), None)
        if found is None:
            raise XbenchError(
                f"{OWNER}: neither {folders[0]} nor {folders[1]} exists: unpack segmentations.tgz of CUB-200-2011 "
                "(www.vision.caltech.edu) there, or leave masks=True out"
            )
        return found


def _table(path: Path, columns: int) -> dict[str, list[str]]:
    """Lines of an image's number and ``columns`` words."""
    rows = {}
    for i, line in enumerate(lines(OWNER, path)):
        image, *words = line.split()
        if len(words) != columns:
            raise XbenchError(f"{OWNER}: {path}, line {i + 1}: {1 + columns} words expected, given {line!r}")
        rows[image] = words
    return rows

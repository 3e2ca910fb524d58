"""Places365: photos of scenes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xbench.datasets._files import Item, file_subset, folder, lines, no_heldout
from xbench.datasets._pixels import Reduction
from xbench.errors import XbenchError
from xbench.subset import DATASETS, Dataset, Part, Subset

OWNER = "dataset 'places365'"
FOLDERS = {"test": ("val_256", "val_large"), "train": ("data_256_standard", "data_large_standard")}
LISTS = {"test": "places365_val.txt", "train": "places365_train_standard.txt"}


@DATASETS.register("places365")
@dataclass(frozen=True)
class Places365(Dataset):
    """Places365-Standard (Zhou et al. 2017, http://places2.csail.mit.edu): 365 scenes, 36 500 photos to validate on.

    ``path`` is torchvision's folder: categories_places365.txt, places365_val.txt and val_256 (or val_large), to train on
    places365_train_standard.txt and data_256_standard (or data_large_standard). The part ``test`` are the photos to validate
    on, and so is ``evaluation``; there is no ``heldout`` (`subset` has one). An image's id is its name in the list.

    Images (b, 3, size, size) in [0, 1], reduced as those of `imagenet`; labels 0..364, no boxes.

    Raises XbenchError saying what is missing and where to put it, or naming the file that is damaged.
    """

    path: str | None = None
    size: int = 224
    crop: float | None = None

    def __post_init__(self) -> None:
        Reduction(self.size, self.crop).check()

    def load(self, part: Part = "evaluation") -> Subset:
        """The images of ``part``: all files are hashed now, the first time, and decoded when they are read."""
        if part == "heldout":
            raise no_heldout(self)
        own = "train" if part == "train" else "test"
        root = folder(OWNER, self.path, "torchvision's folder of Places365 (places2.csail.mit.edu, filelist and images)")
        place = next((root / name for name in FOLDERS[own] if (root / name).is_dir()), None)
        if place is None:
            raise XbenchError(f"{OWNER}: {root} has no folder {' or '.join(FOLDERS[own])}: unpack the images there")
        classes = _numbered(root / "categories_places365.txt")
        items = {}
        for image, label in _numbered(root / LISTS[own]).items():
            if not 0 <= label < len(classes):
                raise XbenchError(f"{OWNER}: {LISTS[own]} gives {image} the label {label}, of 0..{len(classes) - 1}")
            items[image.removeprefix("/")] = Item(place / image.removeprefix("/"), label)
        short = self.replace(path=None).spec
        name = short if part == "evaluation" else f"{short}:{part}"
        return file_subset(OWNER, name, root, items, Reduction(self.size, self.crop), "places-365", self.version)


def _numbered(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    found = {}
    for i, line in enumerate(lines(OWNER, path)):
        words = line.split()
        if len(words) != 2 or not words[1].isdecimal():
            raise XbenchError(f"{OWNER}: {path}, line {i + 1}: a name and a number expected, given {line!r}")
        found[words[0]] = int(words[1])
    if not found:
        raise XbenchError(f"{OWNER}: {path} is empty")
    return found

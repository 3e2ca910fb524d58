"""Imagefolder: a researcher's own images, one folder per class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xbench.datasets._boxes import boxes_by_image
from xbench.datasets._files import Item, class_files, class_folders, file_subset, folder, no_heldout
from xbench.datasets._pixels import Reduction
from xbench.datasets._scan import EXTENSIONS
from xbench.errors import XbenchError
from xbench.registry import digest
from xbench.subset import DATASETS, Dataset, Part, Subset

OWNER = "dataset 'imagefolder'"
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@DATASETS.register("imagefolder")
@dataclass(frozen=True)
class ImageFolder(Dataset):
    """Your own images: PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE (``val`` if there is no ``test``).

    Images (b, channels, h, w) in [0, 1] of jpg, jpeg, png, bmp and webp files with 8 bits a channel; labels 0, 1, ... in the
    order of the class folders' names, as torchvision's ``ImageFolder`` counts them. An image's id is its path below ``path``.
    A part lists the first image of each class, then the second, ..., so that its first images are of all classes (own
    decision). Without ``train`` and ``test`` everything is the test part and there is no train part. ``evaluation`` is the
    whole test part, and there is no ``heldout``: `subset` takes both from a list that ``xbench subset`` writes.

    ``size``: None takes the images as they are, all of one size. A number makes squares, bicubically in one step: the centre
    square whose side is the share ``crop`` of the shorter side. ``crop`` None is 224/256 from 64 px on, as usual for ImageNet,
    and 1 below; an image that already is of that size then stays as it is (own decisions). Every image is decoded once, into
    the user's cache.

    ``boxes``: where the objects are, in pixels of the files: a CSV file with the columns file, x0, y0, x1, y1, one row a box,
    or a folder of XML files in Pascal VOC's format; ``file`` is an id or the end of one. They are scaled and cut with the
    image. An image that is not listed, or whose boxes are outside what remains of it, has none and no score of localisation.

    ``label_space``: what the labels mean, which must be what the classifier declares; the class folders must then be all of its
    classes in its order. By default ``cifar-10`` if the folders have the names of its classes, else ``classes-`` and a checksum
    of the folders' names (own decision).

    ``channels``: 3 repeats grey images, 1 turns coloured ones grey. Transparency and EXIF orientation are ignored; of an
    animation the first picture is taken.

    Raises XbenchError naming the file or folder that is missing, unreadable, of another size, or changed since it was loaded.
    """

    path: str | None = None
    size: int | None = None
    crop: float | None = None
    boxes: str | None = None
    label_space: str | None = None
    channels: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        self._reduction.check()

    @property
    def _reduction(self) -> Reduction:
        return Reduction(self.size, self.crop, self.channels)

    def load(self, part: Part = "evaluation") -> Subset:
        """The images of ``part``: all files are hashed now and decoded when they are read."""
        if part == "heldout":
            raise no_heldout(self)
        root = folder(OWNER, self.path, "the folder of your images")
        classes, files = _tree(root, "train" if part == "train" else "test")
        boxes = boxes_by_image(OWNER, self.boxes, files)
        items = {image: Item(path, label, boxes[image]) for image, (label, path) in files.items()}
        # Without the folders that they lie in, files have a readable name on boards and the same one on every machine.
        short = self.replace(path=root.name, boxes=self.boxes and Path(self.boxes).name).spec
        name = short if part == "evaluation" else f"{short}:{part}"
        return file_subset(OWNER, name, root, items, self._reduction, self.label_space or _label_space(classes), self.version)


def _tree(root: Path, part: Literal["train", "test"]) -> tuple[list[str], dict[str, tuple[int, Path]]]:
    """The class names of a tree, sorted, and the part's labels and files by id."""
    train = root / "train"
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if test is None and train.is_dir():
        raise XbenchError(f"{OWNER}: {root} has a folder train but neither test nor val")
    if part == "train" and not train.is_dir():
        raise XbenchError(f"{OWNER}: {root} has no train part: it would be its folder train")
    where = train if part == "train" else test or root
    classes = class_folders(OWNER, where)
    if test is not None and train.is_dir():
        other = test if part == "train" else train
        if lonely := set(classes) ^ set(class_folders(OWNER, other)):
            raise XbenchError(f"{OWNER}: {train} and {test} must have the same class folders; {min(lonely)!r} is in one only")
    images = class_files(OWNER, where, classes)
    if not images:
        found = f"holds the folders {', '.join(classes[:5])}" if classes else "holds no folders"
        raise XbenchError(
            f"{OWNER}: no images ({', '.join(EXTENSIONS)}) in class folders of {where}, which {found}; "
            "expected PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE"
        )
    return classes, {path.relative_to(root).as_posix(): (label, path) for _, label, path in images}


def _label_space(classes: list[str]) -> str:
    return "cifar-10" if classes == CIFAR10 else f"classes-{digest(classes)[:8]}"

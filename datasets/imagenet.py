"""ImageNet: the validation photos of ILSVRC 2012, with boxes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import scipy.io

from xbench.datasets._boxes import boxes_by_image
from xbench.datasets._files import Item, class_files, class_folders, file_subset, folder, lines, no_heldout, visible
from xbench.datasets._pixels import Reduction
from xbench.datasets._scan import EXTENSIONS
from xbench.errors import XbenchError
from xbench.subset import DATASETS, Dataset, Part, Subset

OWNER = "dataset 'imagenet'"
CLASSES = 1000
DEVKIT = "ILSVRC2012_devkit_t12/data"


@DATASETS.register("imagenet")
@dataclass(frozen=True)
class ImageNet(Dataset):
    """ImageNet's 1 000 classes (ILSVRC 2012, Russakovsky et al. 2015, https://arxiv.org/abs/1409.0575): 50 000 to validate on.

    ``path`` holds torchvision's folder ``val`` with a folder a class (n01440764, ...), of whose sorted names the labels 0..999
    are the positions; or ``val`` with the 50 000 files themselves beside the unpacked ILSVRC2012_devkit_t12, which knows the
    labels. The part ``test`` is ``val``, and so is ``evaluation``; there is no ``heldout`` (`subset` has one); ``train`` is
    a folder like the first. An image's id is its path below ``path``.

    Images (b, 3, size, size) in [0, 1]: the centre square, whose side is the share ``crop`` (None: 224/256) of the shorter
    side, reduced bicubically in one step, as for `imagefolder`.

    ``boxes``: ImageNet's XML files for localisation (a folder; those below count too), LOC_val_solution.csv, or a CSV file as
    for `imagefolder`; in pixels of the files, scaled and cut with them. An image that is not listed has none.

    Raises XbenchError saying what is missing and where to put it, or naming the file that is damaged.
    """

    path: str | None = None
    boxes: str | None = None
    size: int = 224
    crop: float | None = None

    def __post_init__(self) -> None:
        Reduction(self.size, self.crop).check()

    def load(self, part: Part = "evaluation") -> Subset:
        """The images of ``part``: all files are hashed now, the first time, and decoded when they are read."""
        if part == "heldout":
            raise no_heldout(self)
        root = folder(OWNER, self.path, "a folder with ImageNet's folder val (image-net.org, ILSVRC 2012)")
        place = root / ("train" if part == "train" else "val")
        if not place.is_dir():
            raise XbenchError(f"{OWNER}: {place} does not exist: unpack ILSVRC2012_img_{place.name}.tar there")
        classes = class_folders(OWNER, place)
        if classes:
            if len(classes) != CLASSES:
                raise XbenchError(
                    f"{OWNER}: {place} has {len(classes)} class folders, {CLASSES} are expected, since labels are positions "
                    "among them; a part of the classes is read by images(files=...), with labels in a list"
                )
            files = {path: label for _, label, path in class_files(OWNER, place, classes)}
        else:
            files = _flat(root, place)
        ids = {path.relative_to(root).as_posix(): path for path in files}
        if not ids:
            raise XbenchError(f"{OWNER}: {place} holds no images")
        boxes = boxes_by_image(OWNER, self.boxes, ids)
        items = {image: Item(path, files[path], boxes[image]) for image, path in ids.items()}
        short = self.replace(path=None, boxes=self.boxes and Path(self.boxes).name).spec
        name = short if part == "evaluation" else f"{short}:{part}"
        return file_subset(OWNER, name, root, items, Reduction(self.size, self.crop), "imagenet-1k", self.version)


def _flat(root: Path, place: Path) -> dict[Path, int]:
    """The labels of the files in ``val``, from the development kit: its numbers of classes to positions among their names."""
    paths = sorted(path for path in visible(OWNER, place) if path.suffix.lower() in EXTENSIONS)
    kit = root / DEVKIT
    if not kit.is_dir():
        raise XbenchError(
            f"{OWNER}: {place} has no class folders, and {kit} does not exist: unpack ILSVRC2012_devkit_t12.tar.gz in {root}"
        )
    try:
        synsets = scipy.io.loadmat(kit / "meta.mat", squeeze_me=True, struct_as_record=True)["synsets"]
        names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    except Exception as error:  # scipy's reader raises errors of many kinds
        raise XbenchError(f"{OWNER}: {kit / 'meta.mat'} cannot be read: {error}") from error
    position = {name: i for i, name in enumerate(sorted(names.values()))}
    numbers = lines(OWNER, kit / "ILSVRC2012_validation_ground_truth.txt")
    if len(numbers) != len(paths):
        raise XbenchError(f"{OWNER}: {place} holds {len(paths)} images, the development kit {len(numbers)} labels")
    try:
        return {path: position[names[int(number)]] for path, number in zip(paths, numbers, strict=True)}
    except (KeyError, ValueError) as error:
        raise XbenchError(f"{OWNER}: the development kit lists a label that is no class: {error}") from error

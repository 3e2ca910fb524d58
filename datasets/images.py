"""Images: a list of image files with their labels, as a CSV."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xbench.datasets._boxes import CORNERS, boxes_by_image, require, table
from xbench.datasets._files import Item, file_subset, folder, no_heldout
from xbench.datasets._pixels import Reduction
from xbench.errors import XbenchError
from xbench.subset import DATASETS, Dataset, Part, Subset

OWNER = "dataset 'images'"


@DATASETS.register("images")
@dataclass(frozen=True)
class ImageList(Dataset):
    """Your own images, listed in a CSV file with the columns file and label, one row an image.

    ``file`` is the image's path below ``path`` (by default the list's folder) and its id; ``label`` is a number from 0. With
    the columns x0, y0, x1, y1 a row is also a box in pixels of the file, and an image with several boxes has several rows; an
    image without an object leaves them empty. A column part says ``train``, ``test``, ``evaluation`` or ``heldout``; without
    it all are the test part. The test part contains evaluation and held-out images, and is the evaluation part where no image
    is said to be. ``label_space`` is what the labels mean, as the classifier declares it: ``"imagenet-1k"``, for instance.

    Images (b, channels, h, w) in [0, 1]; ``size``, ``crop`` and ``channels`` are those of `imagefolder`, and so are formats.

    Raises XbenchError naming the file, line or column that is missing, unreadable or contradicts another.
    """

    files: str | None = None
    path: str | None = None
    size: int | None = None
    crop: float | None = None
    label_space: str | None = None
    channels: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        self._reduction.check()

    @property
    def _reduction(self) -> Reduction:
        return Reduction(self.size, self.crop, self.channels)

    def load(self, part: Part = "evaluation") -> Subset:
        """The images of ``part`` in the order of the list."""
        if self.files is None or self.label_space is None:
            raise XbenchError(
                f'{OWNER} needs a list and what its labels mean: images(files="LIST.csv", label_space="imagenet-1k")'
            )
        listed = Path(self.files).expanduser()
        header, rows = table(OWNER, listed)
        require(OWNER, listed, header, ("file", "label"))
        root = folder(OWNER, self.path or str(listed.parent), "the folder of the images")
        boxed = any(corner in header for corner in CORNERS)
        labels, parts = dict[str, int](), dict[str, str]()
        for line, row in rows:
            image, label, own = row["file"], row["label"].strip(), row.get("part", "test").strip()
            if not label.isdecimal():
                raise XbenchError(f"{OWNER}: {self.files}, line {line}: a label is a number from 0, given {label!r}")
            if own not in typing.get_args(Part):
                raise XbenchError(f"{OWNER}: {self.files}, line {line}: part {own!r} is none of {typing.get_args(Part)}")
            if (labels.setdefault(image, int(label)), parts.setdefault(image, own)) != (int(label), own):
                raise XbenchError(f"{OWNER}: {self.files}, line {line}: {image!r} had another label or part before")
        boxes = boxes_by_image(OWNER, self.files if boxed else None, labels)
        whole = part == "evaluation" and part not in parts.values()
        wanted = {"test", "evaluation", "heldout"} if part == "test" or whole else {part}
        items = {image: Item(root / image, label, boxes[image]) for image, label in labels.items() if parts[image] in wanted}
        if part == "heldout" and not items:
            raise no_heldout(self)
        if not items:
            raise XbenchError(f"{OWNER}: {self.files} lists no image for {part}")
        short = self.replace(files=listed.name, path=self.path and root.name).spec
        name = short if part == "evaluation" else f"{short}:{part}"
        return file_subset(OWNER, name, root, items, self._reduction, self.label_space, self.version)

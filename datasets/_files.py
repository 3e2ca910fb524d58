"""What the datasets of image files share: from a list of files with labels and boxes to a subset."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL
import torch
from torch import Tensor

from xbench.datasets._pixels import PixelCache, Pixels, Reduction
from xbench.datasets._scan import EXTENSIONS, Scan, scan
from xbench.errors import XbenchError
from xbench.files import user_cache
from xbench.registry import digest
from xbench.subset import Dataset, Subset
from xbench.types import Images, Labels

FORMAT = 1
"""Raised whenever the same files give other pixels."""


@dataclass(frozen=True)
class Item:
    """One image: its file, its label, and its boxes (x0, y0, x1, y1) in pixels of the file, None where nothing is known.

    ``mask`` is a file of the same size, bright on the object (see ``Reduction.mask``).
    """

    path: Path
    label: int
    boxes: Sequence[Sequence[float]] | None = None
    mask: Path | None = None


def file_subset(
    owner: str, name: str, root: Path, items: Mapping[str, Item], reduction: Reduction, label_space: str, version: int = 1
) -> Subset:
    """The subset of ``items`` (by id), whose files are hashed now and decoded when they are first read, into the user's cache.

    Boxes are given for all images if they are known of one, masks for those that have a file. XbenchError naming a file that is
    missing, or no image, or a mask of another size than its image.
    """
    drawn = {image: item.mask for image, item in items.items() if item.mask is not None}
    by_path = scan(owner, root, [*(item.path for item in items.values()), *drawn.values()])
    scans = {image: by_path[item.path] for image, item in items.items()}
    masks = {image: by_path[path] for image, path in drawn.items()}
    for image, mask in masks.items():
        if mask[1:] != scans[image][1:]:
            sizes = [f"{one.width} x {one.height}" for one in (mask, scans[image])]
            raise XbenchError(f"{owner}: the mask {drawn[image]} has {sizes[0]} pixels, its image {sizes[1]}")
    shape = reduction.shape(owner, scans)
    how = [version, FORMAT, reduction.size, reduction.crop, reduction.channels]
    contents = {
        image: digest([how, scans[image].sha256, item.label, item.boxes, *([masks[image].sha256] if image in masks else [])])
        for image, item in items.items()
    }
    files = [scans[image].sha256 for image in items]
    key = digest([how, PIL.__version__, files])
    listed = list(items.values())

    def decode(row: int) -> Pixels:
        return reduction.decode(owner, listed[row].path, files[row])

    def read_masks(ids: Sequence[str]) -> list[Tensor | None]:
        check_ids(owner, ids, items)
        return [reduction.mask(owner, drawn[image], masks[image].sha256) if image in drawn else None for image in ids]

    cache = PixelCache(owner, user_cache() / "pixels" / f"{key[:32]}.uint8", shape, len(items), decode)
    return Subset(
        name=name,
        ids=tuple(items),
        shape=shape,
        label_space=label_space,
        source_digest=digest([[image, contents[image]] for image in items]),
        read=_Reader(owner, items, scans, reduction, cache),
        contents=contents,
        masks=read_masks if drawn else None,
    )


class _Reader:
    """Ids to images, labels and boxes."""

    def __init__(
        self, owner: str, items: Mapping[str, Item], scans: Mapping[str, Scan], reduction: Reduction, cache: PixelCache
    ) -> None:
        self._owner = owner
        self._items = items
        self._scans = scans
        self._reduction = reduction
        self._cache = cache
        self._rows = {image: row for row, image in enumerate(items)}
        self._boxed = any(item.boxes is not None for item in items.values())

    def __call__(self, ids: Sequence[str]) -> tuple[Images, Labels, list[Tensor] | None]:
        check_ids(self._owner, ids, self._rows)
        x = self._cache.read([self._rows[image] for image in ids]).float() / 255
        labels = torch.tensor([self._items[image].label for image in ids])
        boxes = [self._reduction.boxes(self._items[image].boxes or [], self._scans[image]) for image in ids]
        return x, labels, boxes if self._boxed else None


def check_ids(owner: str, ids: Iterable[str], known: Mapping[str, object]) -> None:
    """XbenchError naming the first id that is not known."""
    absent = next((image for image in ids if image not in known), None)
    if absent is not None:
        raise XbenchError(f"{owner} has no image {absent!r} in this part; for instance {next(iter(known))!r}")


def no_heldout(dataset: Dataset) -> XbenchError:
    """The error of a dataset whose held-out part is only in a list of its user's own."""
    return XbenchError(
        f"dataset {dataset.spec} has no heldout part; choose one: xbench subset {shlex.quote(dataset.spec)} --classifier C "
        '--out subset.json, and run on subset(file="subset.json")'
    )


def folder(owner: str, path: str | None, what: str) -> Path:
    """The folder that a parameter names; XbenchError saying ``what`` is expected there if it is not given or not there."""
    name = owner.split("'")[1]
    if path is None:
        raise XbenchError(f'{owner} needs {what}: {name}(path="FOLDER")')
    root = Path(path).expanduser()
    if not root.is_dir():
        state = "is no folder (unpack an archive first)" if root.exists() else "does not exist"
        raise XbenchError(f"{owner}: path {path} {state}; expected: {what}")
    return root.resolve()


def class_files(owner: str, folder: Path, classes: Sequence[str]) -> list[tuple[int, int, Path]]:
    """(rank, label, path) of the images in class folders: the first of every class, then the second, ... (own decision)."""
    images = [
        (rank, label, path)
        for label, name in enumerate(classes)
        for rank, path in enumerate(sorted(path for path in visible(owner, folder / name) if path.suffix.lower() in EXTENSIONS))
    ]
    return sorted(images, key=lambda image: image[:2])


def class_folders(owner: str, folder: Path) -> list[str]:
    """The names of a folder's folders, sorted."""
    return sorted(path.name for path in visible(owner, folder) if path.is_dir())


def visible(owner: str, folder: Path) -> list[Path]:
    """What is in a folder and not hidden; XbenchError if it cannot be read."""
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise XbenchError(f"{owner}: {folder} cannot be read: {error.strerror}") from error


def lines(owner: str, path: Path) -> list[str]:
    """The lines of a text file, blank ones left out; XbenchError naming it if it is not there."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise XbenchError(f"{owner}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise XbenchError(f"{owner}: {path} is no text in UTF-8: {error}") from error

"""Imagefolder: a researcher's own images, one folder per class."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from xbench.errors import XbenchError
from xbench.registry import digest
from xbench.subset import DATASETS, Dataset, Part, Subset
from xbench.types import Images, Labels

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
KEPT_BYTES = 2**28
"""Decoded pixels that a loaded part keeps at most, one byte a value: a training decodes small images once."""


@DATASETS.register("imagefolder")
@dataclass(frozen=True)
class ImageFolder(Dataset):
    """Your own images: PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE (``val`` if there is no ``test``).

    Images (b, channels, h, w) in [0, 1] of jpg, jpeg, png, bmp and webp files with 8 bits a channel; labels 0, 1, ... in the
    order of the class folders' names, as torchvision's ``ImageFolder`` counts them; no boxes. An image's id is its path below
    ``path``. A part lists the first image of each class, then the second, ..., so that its first images are of all classes
    (own decision). Without ``train`` and ``test`` everything is the test part and there is no train part.

    ``size``: None takes the images as they are, all of one size. A number makes squares, bicubically in one step: from 64 px on
    the shorter side becomes ``size`` * 256 / 224, of which the centre remains, as usual for ImageNet; below 64 px the shorter
    side becomes ``size``; an image that already is of that size stays as it is (own decisions).

    ``ids``: the JSON file that ``xbench subset`` prints: ids of the test part for ``evaluation`` and ``heldout``. Without it
    ``evaluation`` is the whole test part and there is no ``heldout``.

    ``label_space``: what the labels mean, which must be what the classifier declares; the class folders must then be all of its
    classes in its order. By default ``cifar-10`` if the folders have the names of its classes, else ``classes-`` and a checksum
    of the folders' names (own decision).

    ``channels``: 3 repeats grey images, 1 turns coloured ones grey. Transparency and EXIF orientation are ignored.

    Raises XbenchError naming the file or folder that is missing, unreadable, of another size, or changed since it was loaded.
    """

    path: str | None = None
    size: int | None = None
    ids: str | None = None
    label_space: str | None = None
    channels: Literal[1, 3] = 3

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size={self.size}: must be at least 1, or None for the images' own size")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: valid are 1 (grey) and 3 (RGB)")

    def load(self, part: Part = "evaluation") -> Subset:
        """The images of ``part``: all files are hashed now and decoded when they are read."""
        root = self._root()
        classes, files = _tree(root, "train" if part == "train" else "test")
        if part == "heldout" or (part == "evaluation" and self.ids is not None):
            files = self._listed(part, files)
        scans = {image: _scan(path) for image, path in files.items()}
        w, h = (self.size, self.size) if self.size else _common_size({image: size for image, (_, size) in scans.items()})
        labels = {name: label for label, name in enumerate(classes)}
        images = {image: (path, scans[image][0], labels[path.parent.name]) for image, path in files.items()}
        decode = functools.partial(_decoded, size=self.size, channels=self.channels)
        kept = functools.lru_cache(max(1, KEPT_BYTES // (self.channels * h * w)))(decode)
        content = [(image, sha256, label) for image, (_, sha256, label) in images.items()]
        # Without the folders that they lie in, files have a readable name on boards and the same one on every machine.
        short = self.replace(path=root.name, ids=self.ids and Path(self.ids).name).spec
        return Subset(
            name=short if part == "evaluation" else f"{short}:{part}",
            ids=tuple(files),
            shape=(self.channels, h, w),
            label_space=self.label_space or _label_space(classes),
            source_digest=digest([self.version, self.size, self.channels, content]),
            read=functools.partial(_read, images, kept),
        )

    def _root(self) -> Path:
        if self.path is None:
            raise XbenchError("dataset 'imagefolder' needs the folder of your images: imagefolder(path=\"FOLDER\")")
        root = Path(self.path).expanduser()
        if not root.is_dir():
            what = "is no folder (unpack an archive first)" if root.exists() else "does not exist"
            raise XbenchError(f"dataset 'imagefolder': path {self.path} {what}")
        return root.resolve()

    def _listed(self, part: Part, files: Mapping[str, Path]) -> dict[str, Path]:
        """The files of the part that the file ``ids`` lists."""
        if self.ids is None:
            raise XbenchError(
                f"dataset {self.spec} has no {part} part; choose one: xbench subset {shlex.quote(self.spec)} --classifier C "
                '> ids.json, and add ids="ids.json"'
            )
        where = f"dataset 'imagefolder': ids {self.ids}"
        try:
            listed = json.loads(Path(self.ids).expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            raise XbenchError(f"{where} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise XbenchError(f"{where} is no JSON ({error}); xbench subset prints such a file") from error
        parts = listed if isinstance(listed, dict) else {}
        for name in ("evaluation", "heldout"):
            if not isinstance(parts.get(name), list) or not all(isinstance(image, str) for image in parts[name]):
                raise XbenchError(f'{where} must hold {{"evaluation": [ids], "heldout": [ids]}}, as xbench subset prints it')
        both = parts["evaluation"] + parts["heldout"]
        absent = [image for image in both if image not in files]
        if absent:
            raise XbenchError(
                f"{where} lists {len(absent)} of {len(both)} images that are not in the test part of {self.path}: "
                f"{absent[0]!r}; an id there is, for instance, {next(iter(files))!r}"
            )
        if len(set(both)) < len(both):
            raise XbenchError(f"{where} lists an image twice: {next(image for image in both if both.count(image) > 1)!r}")
        if not parts[part]:
            raise XbenchError(f"{where} lists no image for {part}")
        return {image: files[image] for image in parts[part]}


def _tree(root: Path, part: Literal["train", "test"]) -> tuple[list[str], dict[str, Path]]:
    """The class names of a tree, sorted, and the part's files by id: the first of every class, then the second, ..."""
    train = root / "train"
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if test is None and train.is_dir():
        raise XbenchError(f"dataset 'imagefolder': {root} has a folder train but neither test nor val")
    if part == "train" and not train.is_dir():
        raise XbenchError(f"dataset 'imagefolder': {root} has no train part: it would be its folder train")
    folder = train if part == "train" else test or root
    classes = _classes(folder)
    if test is not None and train.is_dir():
        other = test if part == "train" else train
        if lonely := set(classes) ^ set(_classes(other)):
            raise XbenchError(
                f"dataset 'imagefolder': {train} and {test} must have the same class folders; {min(lonely)!r} is in one only"
            )
    images = [
        (rank, path.relative_to(root).as_posix(), path)
        for name in classes
        for rank, path in enumerate(sorted(path for path in _visible(folder / name) if path.suffix.lower() in EXTENSIONS))
    ]
    if not images:
        found = f"holds the folders {', '.join(classes[:5])}" if classes else "holds no folders"
        raise XbenchError(
            f"dataset 'imagefolder': no images ({', '.join(EXTENSIONS)}) in class folders of {folder}, which {found}; "
            "expected PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE and PATH/test/CLASS/IMAGE"
        )
    return classes, {image: path for _, image, path in sorted(images)}


def _classes(folder: Path) -> list[str]:
    return sorted(path.name for path in _visible(folder) if path.is_dir())


def _visible(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise XbenchError(f"dataset 'imagefolder': {folder} cannot be read: {error.strerror}") from error


def _scan(path: Path) -> tuple[str, tuple[int, int]]:
    """sha256 of a file and the width and height of its image; read once in a process unless the file changes."""
    try:
        state = path.stat()
    except OSError as error:
        raise XbenchError(f"dataset 'imagefolder': {path} cannot be read: {error.strerror}") from error
    return _scanned(path, state.st_mtime_ns, state.st_size)


@functools.cache
def _scanned(path: Path, _time: int, _bytes: int) -> tuple[str, tuple[int, int]]:
    data, image = _opened(path)
    return hashlib.sha256(data).hexdigest(), image.size


def _opened(path: Path) -> tuple[bytes, Image.Image]:
    """A file's bytes and its image, of which only the header is read."""
    try:
        data = path.read_bytes()
        return data, Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise XbenchError(
            f"dataset 'imagefolder': {path} cannot be read as an image: {len(data)} bytes of no known format"
        ) from error
    except (OSError, Image.DecompressionBombError) as error:
        raise XbenchError(f"dataset 'imagefolder': {path} cannot be read: {error}") from error


def _common_size(sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """The width and height of all images; XbenchError naming the first that differs."""
    (first, (w, h)), *others = sizes.items()
    for image, size in others:
        if size != (w, h):
            raise XbenchError(
                f"dataset 'imagefolder': {image} has {size[0]} x {size[1]} pixels, {first} has {w} x {h}: "
                "give the size that the classifier takes, for instance size=224"
            )
    return w, h


def _label_space(classes: list[str]) -> str:
    return "cifar-10" if classes == CIFAR10 else f"classes-{digest(classes)[:8]}"


def _read(
    images: Mapping[str, tuple[Path, str, int]], decode: Callable[[Path, str], Tensor], ids: Sequence[str]
) -> tuple[Images, Labels, None]:
    unknown = next((image for image in ids if image not in images), None)
    if unknown is not None:
        raise XbenchError(f"dataset 'imagefolder' has no image {unknown!r} in this part; for instance {next(iter(images))!r}")
    files = [images[image] for image in ids]
    pixels = torch.stack([decode(path, sha256) for path, sha256, _ in files])
    return pixels.float() / 255, torch.tensor([label for _, _, label in files]), None


def _decoded(path: Path, sha256: str, *, size: int | None, channels: int) -> Tensor:
    """The pixels (c, h, w) of a file as bytes."""
    where = f"dataset 'imagefolder': {path}"
    data, image = _opened(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise XbenchError(f"{where} has changed since the dataset was loaded; start again")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):  # the conversion would clip them
        raise XbenchError(f"{where} has more than 8 bits a channel (mode {image.mode}): save it with 8")
    try:
        picture = image.convert("RGB" if channels == 3 else "L")
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise XbenchError(f"{where} cannot be read as an image: {error}") from error
    if size is not None and picture.size != (size, size):
        # The square that remains, in pixels of the file: scaled and cropped in one step.
        side = min(picture.size) * (224 / 256 if size >= 64 else 1)
        left, top = (picture.width - side) / 2, (picture.height - side) / 2
        picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(picture))
    return pixels.permute(2, 0, 1) if channels == 3 else pixels[None]

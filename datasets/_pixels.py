"""Files to pixels: the usual reduction to a square, made once, in parallel, into a cache on the disk."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from xbench.datasets._scan import THREADS, Scan, cache_error, opened
from xbench.errors import XbenchError

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Reduction:
    """How a file becomes an image of the dataset.

    ``size`` None leaves it as it is; a number makes squares in one bicubic step, antialiased: the centre square whose side is
    the share ``crop`` of the shorter side. ``crop`` None is 224/256 from 64 px on, as usual for ImageNet, else 1. An image that
    already is of that size stays as it is where ``crop`` is None (own decisions). ``channels``: 3 (grey is repeated) or 1
    (colours become grey).
    """

    size: int | None = None
    crop: float | None = None
    channels: int = 3

    def check(self) -> None:
        """ValueError for a parameter out of range."""
        if self.size is not None and self.size < 1:
            raise ValueError(f"size={self.size}: must be at least 1, or None for the images' own size")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise ValueError(f"crop={self.crop}: must be in (0, 1], or None for 224/256 (1 below 64 px)")
        if self.crop is not None and self.size is None:
            raise ValueError(f"crop={self.crop} needs a size, for instance size=224")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: valid are 1 (grey) and 3 (RGB)")

    def shape(self, owner: str, scans: dict[str, Scan]) -> tuple[int, int, int]:
        """(c, h, w) of all images; XbenchError naming the first of another size if they are to stay as they are."""
        if self.size is not None:
            return self.channels, self.size, self.size
        (first, one), *others = scans.items()
        for image, other in others:
            if (other.width, other.height) != (one.width, one.height):
                raise XbenchError(
                    f"{owner}: {image} has {other.width} x {other.height} pixels, {first} has {one.width} x {one.height}: "
                    "give the size that the classifier takes, for instance size=224"
                )
        return self.channels, one.height, one.width

    def square(self, width: int, height: int) -> tuple[float, float, float, float]:
        """What remains of a file's image: (left, top, right, bottom) in its pixels."""
        if self.size is None or (self.crop is None and width == height == self.size):
            return 0, 0, width, height
        side = min(width, height) * (self.crop or (224 / 256 if self.size >= 64 else 1))
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def boxes(self, boxes: Sequence[Sequence[float]], scan: Scan) -> Tensor:
        """Boxes (n, 4) of the file in pixels of the reduced image, cut at its margin.

        Those left out of which less than a pixel in width or height is still seen (own decision).
        """
        left, top, right, bottom = self.square(scan.width, scan.height)
        w, h = (self.size, self.size) if self.size else (scan.width, scan.height)
        scale = torch.tensor([w / (right - left), h / (bottom - top)] * 2)
        moved = (torch.tensor(boxes, dtype=torch.float32).view(-1, 4) - torch.tensor([left, top] * 2)) * scale
        moved = moved.clamp(min=torch.zeros(4), max=torch.tensor([w, h, w, h]).float())
        return moved[((moved[:, 2:] - moved[:, :2]) >= 1).all(1)]

    def pixels(self, image: Image.Image) -> Image.Image:
        """The reduced image."""
        box = self.square(*image.size)
        if self.size is None or (image.size == (self.size, self.size) and box == (0, 0, *image.size)):
            return image
        return image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)

    def decode(self, owner: str, path: Path, sha256: str) -> Pixels:
        """The pixels (c, h, w) of a file; XbenchError naming it if it is damaged or no longer has this checksum."""
        pixels = self._decoded(owner, path, sha256, "RGB" if self.channels == 3 else "L")
        return pixels.transpose(2, 0, 1) if self.channels == 3 else pixels[None]

    def mask(self, owner: str, path: Path, sha256: str) -> Tensor:
        """Where the reduced image of a mask's file is at least half as bright as white: bool (h, w); XbenchError as above.

        Where people disagree and the brightness is the share of them, as in CUB-200-2011, most of them decide (own decision).
        """
        return torch.from_numpy(self._decoded(owner, path, sha256, "L") >= 128)

    def _decoded(self, owner: str, path: Path, sha256: str, mode: str) -> Pixels:
        where = f"{owner}: {path}"
        data, image = opened(owner, path)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise XbenchError(f"{where} has changed since the dataset was loaded; start again")
        if image.mode in ("I", "F") or image.mode.startswith("I;"):  # the conversion would clip them
            raise XbenchError(f"{where} has more than 8 bits a channel (mode {image.mode}): save it with 8")
        try:
            return np.array(self.pixels(image.convert(mode)))
        except Exception as error:  # Pillow's decoders raise errors of many kinds
            raise XbenchError(f"{where} cannot be read as an image: {error}") from error


class PixelCache:
    """Images (c, h, w) as bytes, one behind the other in a file, and their CRC-32 in a second one; both sparse at first.

    An image is decoded when it is first asked for and read from the file from then on, in this process and in others, so that
    no more than what is asked for is in memory. The checksum tells what is not there yet, or damaged: it is decoded (again).

    Args:
        owner: the dataset, for messages.
        path: the file of pixels; its name must pin what is decoded.
        shape: (c, h, w) of every image.
        count: number of images.
        decode: row number to pixels.
    """

    def __init__(
        self, owner: str, path: Path, shape: tuple[int, int, int], count: int, decode: Callable[[int], Pixels]
    ) -> None:
        self._owner = owner
        self._path = path
        self._sums = path.with_suffix(".crc")
        self._shape = shape
        self._count = count
        self._decode = decode

    def read(self, rows: Sequence[int]) -> Tensor:
        """The images (b, c, h, w) of the given rows as bytes, those that are missing decoded in parallel."""
        bytes_each = int(np.prod(self._shape))
        try:
            self._extend(self._path, self._count * bytes_each)
            self._extend(self._sums, self._count * 4)
            pixels = np.memmap(self._path, np.uint8, "r", shape=(self._count, *self._shape))
            sums = np.memmap(self._sums, np.uint32, "r", shape=(self._count,))
            out = np.zeros((len(rows), *self._shape), np.uint8)
            missing: dict[int, list[int]] = {}
            for i, row in enumerate(rows):
                if sums[row]:
                    out[i] = pixels[row]
                if not sums[row] or zlib.crc32(out[i].data) != sums[row]:
                    missing.setdefault(row, []).append(i)
            if missing:
                with (
                    concurrent.futures.ThreadPoolExecutor(THREADS) as pool,
                    self._path.open("r+b", buffering=0) as values,
                    self._sums.open("r+b", buffering=0) as checks,
                ):
                    for (row, places), fresh in zip(missing.items(), pool.map(self._decode, missing), strict=True):
                        whole = np.ascontiguousarray(fresh)
                        out[places] = whole
                        values.seek(row * bytes_each)
                        values.write(whole.data)
                        checks.seek(row * 4)
                        checks.write(np.uint32(zlib.crc32(whole.data)).tobytes())
        except OSError as error:
            raise cache_error(self._owner, self._path, error) from error
        return torch.from_numpy(out)

    @staticmethod
    def _extend(path: Path, size: int) -> None:
        """Makes a file of that size, of which no block is on the disk before it is written."""
        if not path.exists() or path.stat().st_size != size:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                os.truncate(file.fileno(), size)

"""Small pictures of images and maps, for the site."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from xbench.errors import XbenchError

LARGEST = 112
"""Pixels; larger images are made smaller (own decision), so that a page with many methods stays small."""

Shades = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The same images for all methods, as PNG data URIs.

    ``images`` holds (id, picture); ``maps`` by method one picture per image; ``uncertainty`` the same for methods that have it;
    ``title`` says what the images are.
    """

    images: tuple[tuple[str, str], ...]
    maps: dict[str, tuple[str, ...]]
    uncertainty: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    title: str = ""


def merged(galleries: Sequence[Gallery]) -> list[Gallery]:
    """Galleries of the same images as one each, with the methods of all of them; in the order of their first."""
    found: dict[tuple[tuple[str, str], ...], Gallery] = {}
    for one in galleries:
        before = found.get(one.images, one)
        maps, uncertainty = before.maps | one.maps, before.uncertainty | one.uncertainty
        found[one.images] = Gallery(one.images, maps, uncertainty, before.title)
    return list(found.values())


def image_uri(image: NDArray[np.float32]) -> str:
    """An image (c, h, w) in [0, 1] as a PNG data URI."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    picture = Image.fromarray(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8))
    picture.thumbnail((LARGEST, LARGEST))
    return _uri(picture.quantize(64) if picture.mode == "RGB" else picture)


def shades(values: NDArray[np.float32]) -> Shades:
    """A map (h, w), min-max normalised as in the metrics, in 256 steps and at most ``LARGEST`` pixels a side."""
    span = values.max() - values.min()
    scaled = (values - values.min()) / span if span > 0 else np.zeros_like(values)
    picture = Image.fromarray(np.rint(255 * scaled).astype(np.uint8))
    picture.thumbnail((LARGEST, LARGEST))
    return np.asarray(picture)


def map_uri(of: Shades) -> str:
    """The shades of a map in the colours of ``turbo``, as a PNG data URI."""
    picture = Image.fromarray(of).copy()
    picture.putpalette(np.rint(255 * np.asarray(colormaps["turbo"](np.arange(256)))[:, :3]).astype(np.uint8).tobytes())
    return _uri(picture)


def strip(of: Sequence[Shades]) -> bytes:
    """Maps of the same size side by side, as a grey PNG."""
    return _png(Image.fromarray(np.concatenate(of, axis=1)))


def taken_apart(data: bytes, count: int) -> list[Shades]:
    """The ``count`` maps of a ``strip``; XbenchError if it is none."""
    try:
        whole = np.asarray(Image.open(io.BytesIO(data), formats=["PNG"]))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise XbenchError(f"not a picture ({type(error).__name__})") from error
    if whole.dtype != np.uint8 or whole.ndim != 2 or whole.shape[1] % count:
        raise XbenchError(f"not a grey picture of {count} maps")
    return np.split(whole, count, axis=1)


def _uri(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(_png(picture)).decode()


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return buffer.getvalue()

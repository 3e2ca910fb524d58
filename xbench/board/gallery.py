"""Small pictures of images and maps, for the site."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

LARGEST = 112
"""Pixels; larger images are made smaller (own decision), so that a page with many methods stays small."""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The same images for all methods, as PNG data URIs.

    ``images`` holds (id, picture); ``maps`` by method one picture per image; ``uncertainty`` the same for methods that have it.
    """

    images: tuple[tuple[str, str], ...]
    maps: dict[str, tuple[str, ...]]
    uncertainty: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def image_uri(image: NDArray[np.float32]) -> str:
    """An image (c, h, w) in [0, 1] as a PNG data URI."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    return _uri(Image.fromarray(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)))


def map_uri(values: NDArray[np.float32]) -> str:
    """A map (h, w), min-max normalised as in the metrics, in the colours of ``turbo``, as a PNG data URI."""
    span = values.max() - values.min()
    scaled = (values - values.min()) / span if span > 0 else np.zeros_like(values)
    colours = np.asarray(colormaps["turbo"](scaled))[..., :3]
    return _uri(Image.fromarray(np.rint(255 * colours).astype(np.uint8)))


def _uri(picture: Image.Image) -> str:
    picture.thumbnail((LARGEST, LARGEST))
    if picture.mode == "RGB":
        picture = picture.quantize(64)
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

"""Makes a small picture of every method for the reference: python docs/pictures.py [NAME ...]; without a name, of all."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from figures import classifier, digits, explained
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from xbench import METHODS
from xbench.ops.normalise import minmax

FOLDER = Path(__file__).with_name("figures") / "methods"
DIGITS = 6
SCALE = 2
"""Screen pixels per pixel."""
GAP = 2
"""Pixels between two maps."""


def strip(images: NDArray[np.float32], colours: str) -> Image.Image:
    """Images (n, h, w) in [0, 1] side by side, enlarged without smoothing, white between them."""
    pixels = np.asarray(colormaps[colours](images))[..., :3]
    framed = np.pad(pixels, ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=1)
    joined = np.concatenate(list(framed), axis=1)[:, :-GAP]
    picture = Image.fromarray(np.rint(255 * joined).astype(np.uint8)).quantize(48)
    return picture.resize((picture.width * SCALE, picture.height * SCALE), Image.Resampling.NEAREST)


def main() -> None:
    """Writes the pictures of the methods named on the command line, or of all that apply, and the images themselves."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    ids, x, y = digits(DIGITS)
    strip(x[:, 0].numpy(), "gray").save(FOLDER / "images.png", optimize=True)
    for name in sys.argv[1:] or METHODS.names():
        if METHODS.make(name).not_applicable(classifier()) is None:
            maps = minmax(explained(name, ids, x, y))
            strip(maps.numpy(), "magma").save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()

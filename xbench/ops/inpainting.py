"""Classical inpainting: missing pixels continued from their surroundings, on the CPU and image by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from skimage.restoration import inpaint_biharmonic

from xbench.types import Images, Masks

RADIUS = 3
"""Of the neighbourhood of Telea's method, in pixels."""

Inpaint = Callable[["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"], "np.ndarray[Any, Any]"]
"""(image (h, w, c), missing pixels (h, w) bool) -> image (h, w, c)."""


def biharmonic(x: Images, keep: Masks) -> Images:
    """The images ``x`` (n, c, h, w) with missing pixels that solve the biharmonic equation, by scikit-image.

    Damelin and Hoang 2018, https://doi.org/10.1155/2018/3950312; `skimage.restoration.inpaint_biharmonic`, which clips to the
    range of the observed pixels. A pixel is missing where ``keep`` (n, 1, h, w) is below 0.5; the others are returned exactly.
    Runs on the CPU, image by image, and solves a sparse system for each: seconds for a large hole at 224 px.

    Own decision: if no pixel is observed, every pixel gets the mean of its channel in the image.
    """
    return _each(x, keep, lambda image, missing: inpaint_biharmonic(image, missing, channel_axis=-1))


def telea(x: Images, keep: Masks) -> Images:
    """The images ``x`` (n, c, h, w) in [0, 1] with missing pixels continued by Telea's fast marching, by OpenCV.

    Telea 2004, https://doi.org/10.1080/10867651.2004.10487596; `cv2.inpaint` with ``INPAINT_TELEA`` and a radius of 3 px. A
    pixel is missing where ``keep`` (n, 1, h, w) is below 0.5; the others are returned exactly. Runs on the CPU, image by image.
    OpenCV's function takes 8 bits a channel: what is filled in comes in steps of 1/255, from observed pixels clipped to [0, 1]
    and rounded to such steps.

    Own decisions: missing pixels are set to the mean of the observed ones first, because the function's slopes look at them and
    would let through a trace of what was removed; if no pixel is observed, every pixel gets the mean of its channel in the
    image.

    Raises ValueError if the images have neither 1 nor 3 channels.
    """
    if x.shape[1] not in (1, 3):
        raise ValueError(f"x of shape {tuple(x.shape)}: Telea's inpainting takes images of 1 or 3 channels")
    return _each(x, keep, _telea)


def _telea(image: np.ndarray[Any, Any], missing: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    hidden = np.where(missing[:, :, None], image[~missing].mean(0), image)
    levels = (hidden.clip(0, 1) * 255).round().astype(np.uint8)
    # OpenCV drops the axis of a single channel.
    return cv2.inpaint(levels, missing.astype(np.uint8), RADIUS, cv2.INPAINT_TELEA).reshape(image.shape) / 255.0


def _each(x: Images, keep: Masks, inpaint: Inpaint) -> Images:
    """``x`` with the missing pixels of every image from ``inpaint``, or the mean where nothing is observed."""
    seen = keep.detach() >= 0.5
    pixels = x.detach().double().cpu().permute(0, 2, 3, 1).numpy()
    filled = x.detach().mean((2, 3), keepdim=True).expand_as(x).clone()
    for i, missing in enumerate(~seen[:, 0].cpu().numpy()):
        if not missing.all():
            filled[i] = torch.from_numpy(inpaint(pixels[i], missing) if missing.any() else pixels[i]).permute(2, 0, 1).to(x)
    return torch.where(seen, x.detach(), filled)

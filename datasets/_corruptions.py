"""Corruptions of images (b, c, h, w) in [0, 1], with the constants that ImageNet-C and CIFAR-10-C were made with."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from xbench.rng import ImageRandom
from xbench.types import Images

SMALL = 64
"""Up to this side, in pixels, CIFAR-10-C's constants hold."""


def brightness(x: Images, added: float, _rng: ImageRandom) -> Images:
    """The value of HSV, the largest channel, raised by ``added`` up to 1; hue and saturation stay."""
    value = x.amax(1, keepdim=True)
    raised = (value + added).clamp(max=1)
    return torch.where(value > 0, x * raised / value.clamp(min=1e-12), raised)


def contrast(x: Images, factor: float, _rng: ImageRandom) -> Images:
    """Differences from each channel's mean times ``factor``."""
    mean = x.mean((2, 3), keepdim=True)
    return mean + (x - mean) * factor


def defocus_blur(x: Images, disk: tuple[float, float], _rng: ImageRandom) -> Images:
    """A mean over a disk of that radius, itself blurred a little; borders are reflected."""
    radius, softness = disk
    reach = 8 if radius <= 8 else int(radius)
    offsets = np.arange(-reach, reach + 1)
    flat = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float32)
    side = 3 if radius <= 8 else 5
    kernel = torch.from_numpy(cv2.GaussianBlur(flat / flat.sum(), (side, side), softness))
    planes = F.pad(x.flatten(0, 1)[:, None], [reach] * 4, mode="reflect")
    return F.conv2d(planes, kernel[None, None]).view_as(x)


def gaussian_noise(x: Images, deviation: float, rng: ImageRandom) -> Images:
    """Normal noise on every value."""
    return x + deviation * rng.normal("gaussian_noise", x.shape[1:])


def impulse_noise(x: Images, amount: float, rng: ImageRandom) -> Images:
    """That share of all values set to 0 or 1, as often one as the other."""
    hit, salt = (rng.uniform("impulse_noise", x.shape[1:], step) for step in (0, 1))
    return torch.where(hit < amount, (salt < 0.5).float(), x)


def jpeg_compression(x: Images, quality: int, _rng: ImageRandom) -> Images:
    """Saved as a JPEG of that quality and read again."""

    def saved(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(x, saved)


def motion_blur(x: Images, blur: tuple[int, float], rng: ImageRandom) -> Images:
    """A mean over half a Gaussian (2 radius + 1 pixels) on one side, in a direction within 45 degrees of a row.

    As ImageMagick's: steps along the line rounded to whole pixels, borders replicated.
    """
    radius, sigma = blur
    angle = torch.deg2rad(90 * rng.uniform("motion_blur", (1,)) - 45)
    steps = torch.arange(2 * radius + 1)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    rows = torch.arange(x.shape[2]) + _rounded(angle.sin() * steps)[..., None]
    columns = torch.arange(x.shape[3]) + _rounded(angle.cos() * steps)[..., None]
    rows, columns = rows.clamp(0, x.shape[2] - 1), columns.clamp(0, x.shape[3] - 1)
    image = torch.arange(len(x))[:, None, None]
    out = torch.zeros_like(x)
    for i, weight in enumerate(weights / weights.sum()):
        out += weight * x[image, :, rows[:, i, :, None], columns[:, i, None, :]].permute(0, 3, 1, 2)
    return out


def pixelate(x: Images, share: float, _rng: ImageRandom) -> Images:
    """Reduced to that share of the side and enlarged again, both by a box filter."""

    def coarse(image: Image.Image) -> Image.Image:
        small = image.resize((int(image.width * share), int(image.height * share)), Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.BOX)

    return _each(x, coarse)


def shot_noise(x: Images, photons: float, rng: ImageRandom) -> Images:
    """Poisson noise of so many photons at 1."""
    draws = [
        torch.poisson(image * photons, generator=rng.shared(f"shot_noise {name}"))
        for name, image in zip(rng.ids, x, strict=True)
    ]
    return torch.stack(draws) / photons


def _rounded(offset: torch.Tensor) -> torch.Tensor:
    return torch.ceil(offset - 0.5).long()


def _each(x: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    """Images changed one by one by Pillow, in bytes."""
    out = []
    for image in (x * 255).round().byte():
        planes = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        changed = torch.from_numpy(np.array(change(Image.fromarray(planes.numpy()))))
        out.append(changed[None] if len(image) == 1 else changed.permute(2, 0, 1))
    return torch.stack(out).float() / 255


Kind = tuple[Callable[[Images, Any, ImageRandom], Images], list[Any], list[Any]]
KINDS: dict[str, Kind] = {
    "brightness": (brightness, [0.1, 0.2, 0.3, 0.4, 0.5], [0.05, 0.1, 0.15, 0.2, 0.3]),
    "contrast": (contrast, [0.4, 0.3, 0.2, 0.1, 0.05], [0.75, 0.5, 0.4, 0.3, 0.15]),
    "defocus_blur": (
        defocus_blur,
        [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    ),
    "gaussian_noise": (gaussian_noise, [0.08, 0.12, 0.18, 0.26, 0.38], [0.04, 0.06, 0.08, 0.09, 0.1]),
    "impulse_noise": (impulse_noise, [0.03, 0.06, 0.09, 0.17, 0.27], [0.01, 0.02, 0.03, 0.05, 0.07]),
    "jpeg_compression": (jpeg_compression, [25, 18, 15, 10, 7], [80, 65, 58, 50, 40]),
    "motion_blur": (
        motion_blur,
        [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
        [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    ),
    "pixelate": (pixelate, [0.6, 0.5, 0.4, 0.3, 0.25], [0.95, 0.9, 0.85, 0.75, 0.65]),
    "shot_noise": (shot_noise, [60, 25, 12, 5, 3], [500, 250, 100, 75, 50]),
}
"""Kind to (function, ImageNet-C's five constants, CIFAR-10-C's)."""

"""Sliding patch: occlusion of one square after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.errors import NotApplicable
from xbench.fill import Fill, make_filler, no_inpainter, valid_fill
from xbench.method import METHODS, Method
from xbench.ops.resize import resized
from xbench.perturb import probability_of, stream
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("sliding-patch")
@dataclass(frozen=True)
class SlidingPatch(Method):
    r"""The drop of the class probability when a square patch is filled, p_c(x) - p_c(x filled), for every patch position.

    $$g = \text{up}(v), \quad v_P = p_c(x) - p_c(x \text{ with } P \, \text{ filled})$$

    P are the patches.

    Zeiler and Fergus 2014 (https://arxiv.org/abs/1311.2901), in the form of Agarwal and Nguyen 2020
    (https://arxiv.org/abs/1910.04256, method SP): the grid of values is stretched bilinearly to the image. Values lie in
    [-1, 1] and are signed.

    Args:
        patch: side of the patch in pixels; None: 29 at 224 px as in the paper, scaled with the width; 5 below 64 px (both
            own decisions).
        stride: step between patches in pixels; None: 3 at 224 px as in the paper, scaled with the width, at least 1; 1 below
            64 px (both own decisions).
        fill: what replaces the patch.
        align: True puts every value at the centre of its patch, border values repeated; False is the paper's plain stretch,
            which moves the outermost values to the image border.
    """

    label: ClassVar[str] = "SP"
    quick: ClassVar[dict[str, int]] = {"stride": 7}

    patch: int | None = None
    stride: int | None = None
    fill: Fill = "gray"
    align: bool = False

    def __post_init__(self) -> None:
        valid_fill(self.fill)
        for name in ("patch", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w); NotApplicable if the patch is larger than the image."""
        h, w = x.shape[2:]
        patch, stride = self._window(classifier.shape)
        rows, columns = self._grid(classifier.shape)
        positions = rows * columns

        def mask_of(_image: Tensor, step: Tensor) -> Tensor:
            down = covers(step // columns * stride, patch, h)
            right = covers(step % columns * stride, patch, w)
            # The last step is the untouched image.
            return ~(down[:, :, None] & right[:, None, :] & (step < positions)[:, None, None])[:, None]

        fill = make_filler(self.fill, classifier, x, rng)
        p = stream(classifier, x, positions + 1, mask_of, fill, probability_of(y))
        values = (p[:, -1:] - p[:, :-1]).view(-1, rows, columns)
        if not self.align:
            return resized(values, x)
        down, right = (centred(n, patch, stride, length).to(x) for n, length in ((rows, h), (columns, w)))
        return down @ values @ right.mT

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward pass per position and one for the untouched image; NotApplicable if the patch does not fit."""
        rows, columns = self._grid(shape)
        return Passes(forward=rows * columns + 1)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """The patch is larger than the image, or no inpainter ships for it."""
        try:
            self._grid(classifier.shape)
        except NotApplicable as error:
            return str(error)
        return no_inpainter(self.fill, classifier)

    def resolved(self, shape: tuple[int, int, int]) -> SlidingPatch:
        """The same method with the defaults of images of ``shape`` filled in."""
        patch, stride = self._window(shape)
        return self.replace(patch=patch, stride=stride)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """Agarwal and Nguyen's five patch sizes, scaled like the default; 3, 5, 7, 9, 11 below 64 px (own decisions)."""
        sizes = [scaled(size, shape[-1]) for size in (5, 17, 29, 41, 53)] if shape[-1] >= 64 else [3, 5, 7, 9, 11]
        return {"patch": [self.replace(patch=size) for size in sizes]}

    def _window(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        """Patch side and stride."""
        large = shape[-1] >= 64
        return self.patch or (scaled(29, shape[-1]) if large else 5), self.stride or (scaled(3, shape[-1]) if large else 1)

    def _grid(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        """Number of positions along each axis; NotApplicable if there is none."""
        _, h, w = shape
        patch, stride = self._window(shape)
        if patch > min(h, w):
            raise NotApplicable(f"a patch of {patch} px does not fit an image of {h} x {w} px")
        return (h - patch) // stride + 1, (w - patch) // stride + 1


def scaled(pixels: int, width: int) -> int:
    """A length given for 224 px at another image width, at least 1."""
    return max(1, round(pixels * width / 224))


def covers(start: Tensor, size: int, length: int) -> Tensor:
    """For each start (n,), which of ``length`` pixels lie in [start, start + size): (n, length) bool."""
    pixel = torch.arange(length, device=start.device)
    return (pixel >= start[:, None]) & (pixel < start[:, None] + size)


def centred(positions: int, patch: int, stride: int, length: int) -> Tensor:
    """Linear interpolation (length, positions) between values at the patch centres; border values repeated."""
    pixel = torch.arange(length, dtype=torch.float64)
    u = ((pixel - (patch - 1) / 2) / stride).clamp(0, positions - 1)
    return (1 - (u[:, None] - torch.arange(positions)).abs()).clamp(min=0)

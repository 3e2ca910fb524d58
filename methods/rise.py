"""RISE: randomised input sampling for explanation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.fill import Fill, make_filler, no_inpainter, valid_fill
from xbench.method import METHODS, Method, default_upsample
from xbench.perturb import probability_of, stream
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("rise")
@dataclass(frozen=True)
class Rise(Method):
    r"""The mean of random smooth keep-masks, weighted by the class probability under each (Petsiuk et al. 2018, eq. 6).

    $$g = \frac{1}{N q} \sum_{j=1}^{N} p_c(x M_j + b (1 - M_j)) \, M_j$$

    N is ``masks``, q is ``keep``, b the ``fill``.

    Source: https://arxiv.org/abs/1806.07421, masks as in https://github.com/eclique/RISE: a random binary grid, resized
    bilinearly to one cell more than the image, with its border mirrored, and cropped at a random offset within a cell. The
    masks of a seed are the same for every image. The map is sum_j p_c(x masked by M_j) M_j / (masks * keep); it lies in
    [0, 1] up to the sampling error of the mean mask, and its scale is that of the probability.

    Args:
        masks: number of masks; None: 8000 as in the paper for ResNet-50, 500 below 64 px (own decision).
        upsample: size m of a grid cell in pixels; None: 7 cells along the width as in the paper, and below 64 px the mask
            grid that all methods share, 1/2 of the image (own decision).
        keep: probability that a cell is kept, in (0, 1).
        fill: what replaces the removed pixels; the paper multiplies the normalised image by the mask, which is ``gray``.
        seed: of the masks.
    """

    label: ClassVar[str] = "RISE"
    quick: ClassVar[dict[str, int]] = {"masks": 20}

    masks: int | None = None
    upsample: int | None = None
    keep: float = 0.5
    fill: Fill = "gray"
    seed: int = 0

    def __post_init__(self) -> None:
        valid_fill(self.fill)
        if self.masks is not None and self.masks < 1:
            raise ValueError(f"masks must be at least 1, got {self.masks}")
        if self.upsample is not None and self.upsample < 1:
            raise ValueError(f"upsample must be at least 1, got {self.upsample}")
        if not 0 < self.keep < 1:
            raise ValueError(f"keep must be in (0, 1), got {self.keep}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w); see ``Method``."""
        count = self._count(classifier.shape)
        masks = random_masks(rng.shared("masks"), count, self._cell(classifier.shape), self.keep, x)
        fill = make_filler(self.fill, classifier, x, rng)
        p = stream(classifier, x, count, lambda _image, step: masks(step), fill, probability_of(y))
        maps = x.new_zeros(len(x), x.shape[2] * x.shape[3])
        # The masks are made again rather than kept: at 224 px all of them would take 1.6 GB.
        for steps in torch.split(torch.arange(count, device=x.device), classifier.batch_size):
            maps += p[:, steps] @ masks(steps).flatten(1)
        return maps.view(-1, *x.shape[2:]) / (count * self.keep)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """No inpainter ships for the classifier's images."""
        return no_inpainter(self.fill, classifier)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward pass per mask."""
        return Passes(forward=self._count(shape))

    def resolved(self, shape: tuple[int, int, int]) -> Rise:
        """The same method with the defaults of images of ``shape`` filled in."""
        return self.replace(masks=self._count(shape), upsample=self._cell(shape))

    def at_upsample(self, m: int) -> Rise:
        """The same method with cells of m pixels."""
        return self.replace(upsample=m)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """Five seeds."""
        return {"seeds": [self.replace(seed=seed) for seed in range(5)]}

    def _count(self, shape: tuple[int, int, int]) -> int:
        return self.masks or (8000 if shape[-1] >= 64 else 500)

    def _cell(self, shape: tuple[int, int, int]) -> int:
        return self.upsample or (-(-shape[-1] // 7) if shape[-1] >= 64 else default_upsample(shape))


def random_masks(generator: torch.Generator, count: int, cell: int, keep: float, x: Images) -> Callable[[Tensor], Tensor]:
    """A function from indices (n,) in 0..count-1 to keep-masks (n, 1, h, w) in [0, 1], of the size, type and device of ``x``.

    Only the binary grids and the offsets are stored. Upsampling is linear and separable, so a mask is the product
    R G C^T of its grid G with the two interpolation matrices that belong to its offsets.
    """
    rows, columns = (windows(length, cell).to(x) for length in x.shape[2:])
    grids = (torch.rand(count, rows.shape[2], columns.shape[2], generator=generator) < keep).to(x.device)
    down, right = torch.randint(cell, (2, count), generator=generator).to(x.device)
    return lambda step: (rows[down[step]] @ grids[step].to(x.dtype) @ columns[right[step]].mT)[:, None]


def windows(length: int, cell: int) -> Tensor:
    """Linear interpolation of a row of cells, cropped at each offset: float64 (offsets, pixels, cells)."""
    cells = -(-length // cell)
    pixels = (cells + 1) * cell
    u = (torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels - 0.5
    # Beyond the centres of the outermost cells the row is mirrored, as scikit-image's resize does; a single cell is constant.
    u = (cells - 1 - (cells - 1 - u.abs()).abs()).clamp(min=0)
    full = (1 - (u[:, None] - torch.arange(cells)).abs()).clamp(min=0)
    return full.unfold(0, length, 1)[:cell].mT

"""MP: meaningful perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.fill import Fill, Filler, make_filler, no_inpainter, valid_fill
from xbench.method import METHODS, Method, default_upsample
from xbench.ops.resize import resized
from xbench.perturb import probability_of
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps

LEARNING_RATE = 0.1
L1 = 1e-4
TV = 1e-2
TV_POWER = 3


@METHODS.register("mp")
@dataclass(frozen=True)
class MeaningfulPerturbation(Method):
    r"""The smallest smooth deletion that destroys the class probability, found by optimising a mask (Fong and Vedaldi 2017).

    $$
    g = 1 - m, \quad m = \operatorname{argmin}_m 10^{-4} \sum \lvert 1 - m \rvert + 10^{-2} \sum \lvert \nabla m \rvert^3 +
    p_c(m x + (1 - m) f)
    $$

    f is the fill.

    Source: https://arxiv.org/abs/1704.03296, in the form of the code of Agarwal and Nguyen 2020
    (https://github.com/anguyen8/generative-attribution-methods): a keep-mask m on a coarse grid, drawn from U(0, 1), is
    enlarged by nearest neighbours, and Adam (learning rate 0.1, m clamped to [0, 1] after every step) minimises
    1e-4 sum |1 - m| + 1e-2 sum |grad m|^3 + p_c(m x + (1 - m) fill). Image and fill are shifted under the mask by a random
    number of pixels in each step. The map is 1 - m, in [0, 1]: 1 = deleted.

    Args:
        upsample: size m of a grid cell in pixels; None: 8 as in the code (28 x 28 at 224 px), 2 below 64 px (own decision).
        iterations: optimisation steps.
        jitter: largest shift down and right in pixels; the border is replicated (own decision: the code crops a larger
            image). None: 3 at 224 px as in the code, scaled with the width and rounded, so 0 at 28 px (own decision).
        fill: what replaces the deleted pixels.
        seed: of the first mask and the shifts.
    """

    iterative: ClassVar[bool] = True
    label: ClassVar[str] = "MP"
    quick: ClassVar[dict[str, int]] = {"iterations": 5}

    upsample: int | None = None
    iterations: int = 300
    jitter: int | None = None
    fill: Fill = "blur"
    seed: int = 0

    def __post_init__(self) -> None:
        valid_fill(self.fill)
        if self.upsample is not None and self.upsample < 1:
            raise ValueError(f"upsample must be at least 1, got {self.upsample}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.jitter is not None and self.jitter < 0:
            raise ValueError(f"jitter must not be negative, got {self.jitter}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w); see ``Method``."""
        h, w = x.shape[2:]
        cell, jitter = self._cell(classifier.shape), self._jitter(classifier.shape)
        start = rng.uniform("mask", (1, -(-h // cell), -(-w // cell))).to(x)
        shifts = rng.integers("shift", jitter + 1, (self.iterations, 2)).to(x.device)
        fill = make_filler(self.fill, classifier, x, rng)
        chunks = torch.split(torch.arange(len(x), device=x.device), classifier.batch_size)
        with torch.enable_grad():
            masks = [optimise(classifier, x, fill, y, i, start[i], shifts[i], jitter > 0) for i in chunks]
        return 1 - resized(torch.cat(masks), x, "nearest")[:, 0]

    def not_applicable(self, classifier: Classifier) -> str | None:
        """No inpainter ships for the classifier's images."""
        return no_inpainter(self.fill, classifier)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass per iteration."""
        return Passes(forward=self.iterations, backward=self.iterations)

    def resolved(self, shape: tuple[int, int, int]) -> MeaningfulPerturbation:
        """The same method with the defaults of images of ``shape`` filled in."""
        return self.replace(upsample=self._cell(shape), jitter=self._jitter(shape))

    def at_upsample(self, m: int) -> MeaningfulPerturbation:
        """The same method with cells of m pixels."""
        return self.replace(upsample=m)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """Mask grids of 28, 56 and 112 at 224 px, of 7, 14 and 28 at 28 px (own decision: the paper sweeps its MP2)."""
        return {"grid": [self.replace(upsample=m) for m in ((8, 4, 2) if shape[-1] >= 64 else (4, 2, 1))]}

    def _cell(self, shape: tuple[int, int, int]) -> int:
        return self.upsample or default_upsample(shape)

    def _jitter(self, shape: tuple[int, int, int]) -> int:
        return round(3 * shape[-1] / 224) if self.jitter is None else self.jitter


def optimise(
    classifier: Classifier, x: Images, fill: Filler, y: Labels, image: Tensor, start: Tensor, shifts: Tensor, shifting: bool
) -> Tensor:
    """The optimised keep-masks (b, 1, rows, columns) of x[image] from ``start``, with shifts (b, iterations, 2) or none.

    The loss is a sum over images and Adam works elementwise, so the images of a batch do not touch each other.
    """
    probability = probability_of(y[image])
    index = torch.arange(len(image), device=x.device)
    mask = start.clone().requires_grad_()
    adam = torch.optim.Adam([mask], lr=LEARNING_RATE)
    for iteration, shift in enumerate(shifts.unbind(1)):
        keep = resized(mask, x, "nearest")
        # An inpainter sees the unmoved image under the unmoved mask.
        pair = torch.cat([x.index_select(0, image), fill(image, torch.full_like(image, iteration), keep.detach())], 1)
        moved, removed = (shifted(pair, shift) if shifting else pair).chunk(2, 1)
        p = probability(classifier(torch.lerp(removed, moved, keep)), index)
        variation = mask.diff(dim=2).abs().pow(TV_POWER).sum() + mask.diff(dim=3).abs().pow(TV_POWER).sum()
        loss = L1 * (1 - mask).abs().sum() + TV * variation + p.sum()
        (mask.grad,) = torch.autograd.grad(loss, mask)
        adam.step()
        with torch.no_grad():
            mask.clamp_(0, 1)
    return mask.detach()


def shifted(images: Images, shift: Tensor) -> Images:
    """Each image (b, c, h, w) seen from ``shift`` (b, 2) pixels further down and right, its border replicated."""
    b, _, h, w = images.shape
    rows = (torch.arange(h, device=images.device) + shift[:, :1]).clamp(max=h - 1)
    columns = (torch.arange(w, device=images.device) + shift[:, 1:]).clamp(max=w - 1)
    image = torch.arange(b, device=images.device)[:, None, None]
    return images[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

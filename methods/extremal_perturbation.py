"""EP: extremal perturbations, the smooth masks of fixed areas that keep the class best."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.method import METHODS, Method, default_upsample
from xbench.methods.sas import score_gradient
from xbench.ops.pyramid import blur_pyramid
from xbench.ops.smooth_mask import SmoothMask
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps

LEARNING_RATE = 0.01
MOMENTUM = 0.9
GROWTH = 1.0035
"""Factor of the area's weight from one iteration to the next."""


@METHODS.register("extremal-perturbation")
@dataclass(frozen=True)
class ExtremalPerturbation(Method):
    r"""The sum of the smooth masks, one for each area, under which the blurred image keeps the class's logit highest.

    $$
    g = \sum_a m_a, \quad m_a = \operatorname{argmin}_m \left[ - f_c(x \text{ under } m) + w \cdot 1.0035^t \cdot \text{mean}
    \left( \text{sort}(m) - r_a \right)^2 \right]
    $$

    w is the ``weight``, t the iteration and r_a the template.

    Fong et al. 2019 (https://arxiv.org/abs/1910.08485), in the form of TorchRay's code
    (https://github.com/facebookresearch/TorchRay), variant "preserve" with the simple reward. A grid of cells, all 1 at first,
    makes a mask (`xbench.ops.smooth_mask`), which blurs the image where it is below 1, by up to 20 px at 224 px
    (`xbench.ops.pyramid`). Gradient descent (learning rate 0.01, momentum and dampening 0.9, cells clamped to [0, 1] after
    every step) minimises -f_c + weight * 1.0035^t * mean (sorted mask - template)^2, f_c the logit, t the iteration and the
    template 0 up to the share 1 - area of the pixels and 1 above. As in TorchRay the area is a share of the mask's canvas,
    which is larger than the image by a margin of one sigma, and the map holds the masks of the last pass. Every mask is in [0,
    1].

    Own decision: equal pixels share their part of the template, where TorchRay leaves their order to the sort. At first most
    are equal, and an order from top to bottom draws the masks to the lower border.

    Args:
        areas: shares of the canvas, each in (0, 1); one or several, whose masks are added.
        iterations: optimisation steps.
        upsample: distance of the grid's cells in pixels; None: 7 at 224 px as in TorchRay, scaled with the height and rounded,
            and below 64 px the mask grid that all methods share, 1/2 of the image (own decisions).
        sigma: width of a cell's bump in pixels; None: 21 at 224 px as in TorchRay, scaled with the height (own decision).
        weight: of the area; None: 300 as in TorchRay, 30 below 64 px (own decision: on digits and `mnist-cnn`, whose logits are
            small, 300 draws the masks to the border, where their soft edges are cut off; 6 digits won the deletion and
            insertion game by 0.45 with it and by 0.68 with 30).
        jitter: whether every other pass, from the first on, sees the image mirrored; None: as in TorchRay from 64 px on, not
            below, where images are digits (own decision).
    """

    iterative: ClassVar[bool] = True
    label: ClassVar[str] = "EP"
    quick: ClassVar[dict[str, Any]] = {"iterations": 3}

    areas: tuple[float, ...] = (0.05, 0.1, 0.2)
    iterations: int = 800
    upsample: int | None = None
    sigma: float | None = None
    weight: float | None = None
    jitter: bool | None = None

    def __post_init__(self) -> None:
        if not self.areas or not all(0 < area < 1 for area in self.areas):
            raise ValueError(f"areas must be one or more numbers in (0, 1), got {self.areas}")
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.upsample is not None and self.upsample < 1:
            raise ValueError(f"upsample must be at least 1, got {self.upsample}")
        if self.sigma is not None and self.sigma <= 0:
            raise ValueError(f"sigma must be above 0, got {self.sigma}")
        if self.weight is not None and self.weight < 0:
            raise ValueError(f"weight must not be negative, got {self.weight}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w), between 0 and the number of areas; see ``Method``."""
        return self.masks(classifier, x, y).sum(1)

    def masks(self, classifier: Classifier, x: Images, y: Labels) -> Tensor:
        """The masks of every area, (b, areas, h, w) in [0, 1]."""
        method = self.resolved(classifier.shape)
        # As many images as have their masks in one batch; a single one whose masks fill more than one.
        chunks = torch.arange(len(x), device=x.device).split(max(1, classifier.batch_size // len(self.areas)))
        with torch.enable_grad():
            return torch.cat([optimise(method, classifier, x[i], y[i]) for i in chunks])

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass per area and iteration."""
        passes = self.iterations * len(self.areas)
        return Passes(forward=passes, backward=passes)

    def resolved(self, shape: tuple[int, int, int]) -> ExtremalPerturbation:
        """The same method with the defaults of images of ``shape`` filled in."""
        scale, large = shape[1] / 224, shape[1] >= 64
        return self.replace(
            upsample=self.upsample or (round(7 * scale) if large else default_upsample(shape)),
            sigma=self.sigma or 21 * scale,
            weight=(300.0 if large else 30.0) if self.weight is None else self.weight,
            jitter=large if self.jitter is None else self.jitter,
        )

    def at_upsample(self, m: int) -> ExtremalPerturbation:
        """The same method with cells m pixels apart."""
        return self.replace(upsample=m)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """One area alone, each of 5, 10, 20 and 40 % (own decision)."""
        return {"area": [self.replace(areas=(area,)) for area in (0.05, 0.1, 0.2, 0.4)]}


def optimise(method: ExtremalPerturbation, classifier: Classifier, x: Images, y: Labels) -> Tensor:
    """The masks (b, areas, h, w) of a resolved ``method``.

    The loss is a sum over images and areas and gradient descent works elementwise, so they do not touch each other.
    """
    assert method.upsample is not None
    assert method.sigma is not None
    assert method.weight is not None
    b, k, (h, w) = len(x), len(method.areas), x.shape[2:]
    generate = SmoothMask((h, w), method.upsample, method.sigma)
    pyramid = blur_pyramid(x)
    grid = x.new_ones(b * k, generate.rows, generate.columns).requires_grad_()
    optimiser = torch.optim.SGD([grid], lr=LEARNING_RATE, momentum=MOMENTUM, dampening=MOMENTUM)
    masks = x.new_zeros(())

    def logit(mirrored: bool, images: Tensor) -> Tensor:
        logits: Tensor = classifier(images.flatten(0, 1).flip(3) if mirrored else images.flatten(0, 1))
        return logits.gather(1, y.repeat_interleave(images.shape[1])[:, None]).sum()

    for t in range(method.iterations):
        masks, canvas = generate(grid)
        n = canvas.shape[1]
        wanted = assigned([n - int(n * (1 - area)) for area in method.areas], canvas.detach().view(b, k, n))
        mirrored = bool(method.jitter) and t % 2 == 0
        score = functools.partial(logit, mirrored)
        ascent = score_gradient(score, pyramid, masks.view(b, k, h, w), classifier.batch_size)
        excess = (canvas - wanted.view_as(canvas)).square().mean(1).sum() * method.weight * GROWTH**t
        (grid.grad,) = torch.autograd.grad([masks, excess], grid, [-ascent.view_as(masks), torch.ones_like(excess)])
        optimiser.step()
        with torch.no_grad():
            grid.clamp_(0, 1)
    return masks.detach().reshape(b, k, h, w)


def assigned(ones: Sequence[int], values: Tensor) -> Tensor:
    """1 for the ``ones[k]`` largest of ``values[:, k]`` (b, areas, m), else 0; equal values share what falls to them."""
    found = []
    for count, v in zip(ones, values.unbind(1), strict=True):
        threshold = v.kthvalue(v.shape[1] - count + 1, dim=1, keepdim=True)[0]
        above, equal = v > threshold, v == threshold
        share = (count - above.sum(1, keepdim=True)) / equal.sum(1, keepdim=True)
        found.append(torch.where(equal, share.to(v), above.to(v)))
    return torch.stack(found, 1)

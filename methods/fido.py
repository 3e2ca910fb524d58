"""FIDO: fill-in of the dropout, the probability with which every pixel must be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.fill import Fill, make_filler, no_inpainter, valid_fill
from xbench.method import METHODS, Method, default_upsample
from xbench.methods.mp2 import log_odds
from xbench.ops.resize import resized
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps

LEARNING_RATE = 0.05
TEMPERATURE = 0.1
ANNEALING = 30
"""Steps until the weight of the sparsity has grown to 1."""
PIXELS = 224**2
"""Number of pixels of the paper's images, over whose sum its lambda is given."""


@METHODS.register("fido")
@dataclass(frozen=True)
class Fido(Method):
    r"""The probability of keeping each pixel under which random fill-ins of the rest preserve the class (Chang et al. 2019).

    $$
    g = q - \frac{1}{2}, \quad q = \operatorname{argmin}_q E_{z \sim q} \left[ - \log \frac{p_c}{1 - p_c} (x z + f (1 - z))
    \right] + \lambda w \cdot 224^2 \cdot \text{mean}(q)
    $$

    q are the keep probabilities, z a mask drawn with them, f the fill, lambda the ``sparsity``.

    Source: https://arxiv.org/abs/1807.08024, the preserving objective (SSR), as in its code
    (https://github.com/zzzace2000/FIDO-saliency); with an inpainter as ``fill`` it is FIDO-CA. The logits of the drop
    probabilities on a coarse grid start at 0. A step enlarges the probabilities bilinearly (own decision: half-pixel centres),
    draws keep-masks z from a concrete distribution of temperature 0.1, every pixel on its own, and Adam descends
    -log(p_c / (1 - p_c)) at x z + f (1 - z), averaged over the draws, + lambda w times the sum of the keep probabilities. f is
    the fill for the mask z, rounded, and takes no gradient. The learning rate falls linearly from 0.05 to 0; the weight w grows
    linearly from 0 to 1 in 30 steps. The map is the enlarged keep probability - 0.5, in [-0.5, 0.5] (own decision: the code
    enlarges the logits for the map, the probabilities for the draws).

    Args:
        upsample: size of a grid cell in pixels; None: 4 as in the code (56 x 56 at 224 px), 2 below 64 px (own decision).
        steps: of the optimisation.
        samples: masks drawn in a step.
        sparsity: lambda for images of 224 x 224 pixels; scaled by their number (own decision), so that it weighs the mean.
        fill: what replaces the dropped pixels.
        seed: of the draws.
    """

    iterative: ClassVar[bool] = True
    label: ClassVar[str] = "FIDO"
    quick: ClassVar[dict[str, Any]] = {"steps": 4, "samples": 3, "fill": "blur"}

    upsample: int | None = None
    steps: int = 300
    samples: int = 8
    sparsity: float = 1e-3
    fill: Fill = "inpaint"
    seed: int = 0

    def __post_init__(self) -> None:
        valid_fill(self.fill)
        if self.upsample is not None and self.upsample < 1:
            raise ValueError(f"upsample must be at least 1, got {self.upsample}")
        for name in ("steps", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.sparsity < 0:
            raise ValueError(f"sparsity must not be negative, got {self.sparsity}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) in [-0.5, 0.5]; see ``Method``."""
        # The draws of several images share a batch, or those of one image fill several.
        chunks = torch.arange(len(x), device=x.device).split(max(1, classifier.batch_size // self.samples))
        with torch.enable_grad():
            drop = [
                self._optimised(classifier, x[i], y[i], ImageRandom(rng.seed, [rng.ids[j] for j in i.tolist()])) for i in chunks
            ]
        return resized(torch.sigmoid(-torch.cat(drop)), x) - 0.5

    def _optimised(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Float[Tensor, "b rows columns"]:
        """The optimised logits of the drop probabilities.

        The loss is a sum over images and Adam works elementwise, so the images of a batch do not touch each other.
        """
        b, _, h, w = x.shape
        cell = self._cell(classifier.shape)
        drop = x.new_zeros(b, -(-h // cell), -(-w // cell)).requires_grad_()
        filler = make_filler(self.fill, classifier, x, rng)
        image = torch.arange(b, device=x.device).repeat_interleave(self.samples)
        sample = torch.arange(self.samples, device=x.device).repeat(b)
        adam = torch.optim.Adam([drop], lr=LEARNING_RATE)
        for step in range(self.steps):
            noise = rng.uniform("concrete", (self.samples, h, w), step).to(x)
            z = concrete(drop, noise).view(-1, 1, h, w)
            ascent: list[Tensor] = []  # of the log odds, by the masks
            for part in torch.arange(len(z), device=x.device).split(classifier.batch_size):
                keep = z[part].detach().requires_grad_()
                fill = filler(image[part], step * self.samples + sample[part], keep.detach())
                odds = log_odds(classifier(torch.lerp(fill, x.index_select(0, image[part]), keep)), y[image[part]])
                ascent += torch.autograd.grad(odds.sum(), keep)
            kept = resized(torch.sigmoid(-drop), x).mean((1, 2)).sum()
            weight = self.sparsity * PIXELS * min(1, step / ANNEALING)
            (drop.grad,) = torch.autograd.grad([z, kept], drop, [-torch.cat(ascent) / self.samples, kept.new_tensor(weight)])
            adam.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / self.steps)
            adam.step()
        return drop.detach()

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass per step and sample."""
        return Passes(forward=self.steps * self.samples, backward=self.steps * self.samples)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """No inpainter ships for the classifier's images."""
        return no_inpainter(self.fill, classifier)

    def resolved(self, shape: tuple[int, int, int]) -> Fido:
        """The same method with the default cell of images of ``shape`` filled in."""
        return self.replace(upsample=self._cell(shape))

    def at_upsample(self, m: int) -> Fido:
        """The same method with cells of m pixels."""
        return self.replace(upsample=m)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """Five seeds."""
        return {"seeds": [self.replace(seed=seed) for seed in range(5)]}

    def _cell(self, shape: tuple[int, int, int]) -> int:
        return self.upsample or (4 if shape[-1] >= 64 else default_upsample(shape))


def concrete(drop: Float[Tensor, "b rows columns"], noise: Float[Tensor, "b samples h w"]) -> Float[Tensor, "b samples h w"]:
    """Relaxed keep-masks in (0, 1): with the keep probability p of a pixel, sigmoid((logit p - logit noise) / temperature).

    Maddison et al. 2017, https://arxiv.org/abs/1611.00712; p is bilinear between the cells' probabilities sigmoid(-drop).
    """
    x = noise[:, :1]
    # Both probabilities are enlarged, because 1 - p would round small ones to 0.
    keep, lost = (resized(torch.sigmoid(logit), x)[:, None] for logit in (-drop, drop))
    noise = noise.clamp(2**-24, 1 - 2**-24)  # draws are multiples of 2^-24, and 0 has no logit
    return torch.sigmoid((keep.log() - lost.log() - noise.logit()) / TEMPERATURE)

"""LIME: a local linear model over superpixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.fill import Fill, make_filler, no_inpainter, valid_fill
from xbench.method import METHODS, Method
from xbench.ops.segments import (
    SEGMENTS,
    default_compactness,
    default_samples,
    default_sigma,
    kept_superpixels,
    superpixels,
)
from xbench.perturb import probability_of, stream
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps

KERNEL_WIDTH = 0.25
ALPHA = 1.0


@dataclass(frozen=True)
class SuperpixelModel(Method):
    """The coefficient of each superpixel in a linear model of the class probability: what LIME and Kernel SHAP share.

    The first sample keeps every superpixel. The map is signed, in units of probability, and constant on each superpixel. SLIC
    runs on the CPU, image by image.

    Args:
        samples: number of perturbed images, the whole image included; None: 1000, 500 below 64 px (own decision).
        segments: number of superpixels asked for; SLIC may return fewer or more.
        sigma: of the blur before SLIC, in pixels; None: 3, 0 below 64 px (own decision).
        compactness: SLIC's weight of space against colour; None: 30, whose colours are Lab; 0.1 for images that do not have
            three channels, whose values SLIC compares in [0, 1] (own decision: 30 would give a plain grid).
        fill: what replaces the removed superpixels.
        seed: of the samples.
    """

    quick: ClassVar[dict[str, int]] = {"samples": 20, "segments": 10}

    samples: int | None = None
    segments: int = SEGMENTS
    sigma: float | None = None
    compactness: float | None = None
    fill: Fill = "gray"
    seed: int = 0

    def __post_init__(self) -> None:
        valid_fill(self.fill)
        if self.samples is not None and self.samples < 2:
            raise ValueError(f"samples must be at least 2, got {self.samples}")
        if self.segments < 2:
            raise ValueError(f"segments must be at least 2, got {self.segments}")
        if self.sigma is not None and self.sigma < 0:
            raise ValueError(f"sigma must not be negative, got {self.sigma}")
        if self.compactness is not None and self.compactness <= 0:
            raise ValueError(f"compactness must be positive, got {self.compactness}")

    def draw(self, rng: ImageRandom, count: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Which of the ``count`` (b,) superpixels each sample keeps, bool (b, samples, most), and its weight (b, samples)."""
        raise NotImplementedError

    def fit(self, kept: Tensor, weight: Tensor, p: Tensor) -> Tensor:
        """Coefficients (b, most) from samples, weights and class probabilities (b, samples), all float64."""
        raise NotImplementedError

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w); see ``Method``."""
        b, _, h, w = x.shape
        samples = self._samples(classifier.shape)
        superpixel = superpixels(x, self.segments, self._sigma(classifier.shape), self._compactness(classifier.shape))
        kept, weight = self.draw(rng, superpixel.amax(1) + 1, samples)
        superpixel, kept, weight = superpixel.to(x.device), kept.to(x.device), weight.to(x.device)

        def mask_of(image: Tensor, step: Tensor) -> Tensor:
            return kept[image, step].gather(1, superpixel.index_select(0, image)).view(-1, 1, h, w)

        fill = make_filler(self.fill, classifier, x, rng)
        p = stream(classifier, x, samples, mask_of, fill, probability_of(y))
        return self.fit(kept.double(), weight, p.double()).gather(1, superpixel).view(b, h, w).to(x.dtype)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """No inpainter ships for the classifier's images."""
        return no_inpainter(self.fill, classifier)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward pass per sample."""
        return Passes(forward=self._samples(shape))

    def resolved(self, shape: tuple[int, int, int]) -> Self:
        """The same method with the defaults of images of ``shape`` filled in."""
        return self.replace(samples=self._samples(shape), sigma=self._sigma(shape), compactness=self._compactness(shape))

    def _samples(self, shape: tuple[int, int, int]) -> int:
        return self.samples or default_samples(shape)

    def _sigma(self, shape: tuple[int, int, int]) -> float:
        return default_sigma(shape) if self.sigma is None else self.sigma

    def _compactness(self, shape: tuple[int, int, int]) -> float:
        return self.compactness or default_compactness(shape)


@METHODS.register("lime")
@dataclass(frozen=True)
class Lime(SuperpixelModel):
    r"""The coefficient of each superpixel in a weighted ridge regression of the class probability (Ribeiro et al. 2016).

    $$
    g = w_s \text{ on superpixel } s, \quad w = \operatorname{argmin}_{w, w_0} \sum_n \sqrt{\exp(-d_n^2 / 0.25^2)} \left(
    p_c(x_n) - w_0 - z_n \cdot w \right)^2 + \lvert w \rvert^2, \quad d_n = 1 - \cos(z_n, 1)
    $$

    z_n says which superpixels the sample x_n keeps.

    Source: https://arxiv.org/abs/1602.04938, in the form of the code of Agarwal and Nguyen 2020
    (https://github.com/anguyen8/generative-attribution-methods): SLIC superpixels; each is kept with probability 1/2, and the
    first sample keeps all; a sample at cosine distance d from the first weighs sqrt(exp(-d^2 / 0.25^2)), with d = 1 for a
    sample that keeps nothing; ridge regression with alpha = 1 and an intercept on all superpixels. That paper's text (lasso,
    image distance) is not what its code does. The map is signed, in units of probability, and constant on each superpixel.

    SLIC runs on the CPU, image by image.

    Args:
        samples: number of perturbed images, the whole image included; None: 1000 as in the paper, 500 below 64 px (own
            decision).
        segments: number of superpixels asked for; SLIC may return fewer or more.
        sigma: of the blur before SLIC, in pixels; None: 3 as in the code, 0 below 64 px (own decision).
        compactness: SLIC's weight of space against colour; None: 30 as in the code, whose colours are Lab; 0.1 for images
            that do not have three channels, whose values SLIC compares in [0, 1] (own decision: 30 would give a plain grid).
        fill: what replaces the removed superpixels.
        seed: of the samples.
    """

    label: ClassVar[str] = "LIME"

    def draw(self, rng: ImageRandom, count: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """Every superpixel is kept or not with the same probability; samples weigh by their distance to the whole image."""
        kept = kept_superpixels(count, samples, self.segments, rng.uniform)
        # The cosine of a binary row with the row of ones is the root of the share of ones.
        distance = 1 - (kept.sum(2).double() / count[:, None]).sqrt()
        return kept, torch.exp(-(distance**2) / KERNEL_WIDTH**2).sqrt()

    def fit(self, kept: Tensor, weight: Tensor, p: Tensor) -> Tensor:
        """Ridge regression."""
        return weighted_ridge(kept, p, weight, ALPHA)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """Agarwal and Nguyen's two sweeps: five seeds with 500 samples, at 50 and at 150 superpixels."""
        return {
            f"S={segments}": [self.replace(segments=segments, samples=500, seed=seed) for seed in range(5)]
            for segments in (50, 150)
        }


def weighted_ridge(z: Tensor, p: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """Coefficients (b, s) minimising sum_n weight_n (p_n - intercept - z_n . coefficients)^2 + alpha |coefficients|^2.

    Takes features (b, n, s), targets (b, n) and weights (b, n); the intercept is not penalised, and a feature that is zero
    in every sample gets the coefficient 0.
    """
    share = (weight / weight.sum(1, keepdim=True))[:, :, None]
    z = z - (share * z).sum(1, keepdim=True)
    p = p[:, :, None] - (share * p[:, :, None]).sum(1, keepdim=True)
    weighted = (weight[:, :, None] * z).mT
    penalty = alpha * torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
    # Not by `torch.linalg.solve`: several LU decompositions of more than 150 unknowns at a time hang, or are wrong, on a CPU
    # with several threads (https://github.com/pytorch/pytorch/issues/141358).
    factor: Tensor = torch.linalg.cholesky(weighted @ z + penalty)
    return torch.cholesky_solve(weighted @ p, factor)[:, :, 0]

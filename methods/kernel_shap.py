"""Kernel SHAP: Shapley values of superpixels, by a weighted regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xbench.method import METHODS, Method
from xbench.methods.lime import SuperpixelModel
from xbench.ops.segments import column_draws
from xbench.rng import ImageRandom


@METHODS.register("kernel-shap")
@dataclass(frozen=True)
class KernelShap(SuperpixelModel):
    r"""Shapley values of the superpixels for the class probability p_c, by weighted least squares (Lundberg & Lee 2017).

    $$
    g = \phi_s \text{ on superpixel } s, \quad \phi = \operatorname{argmin}_\phi \sum_S \frac{M - 1}{\binom{M}{\lvert S \rvert}
    \lvert S \rvert (M - \lvert S \rvert)} \left( p_c(x_S) - p_c(x_\emptyset) - \sum_{s \in S} \phi_s \right)^2, \quad \sum_s
    \phi_s = p_c(x) - p_c(x_\emptyset)
    $$

    x_S shows the superpixels of the coalition S.

    Source: https://arxiv.org/abs/1705.07874, theorem 2: the regression of p_c(x with the coalition's superpixels kept) on
    membership, weighted by (M - 1) / (C(M, k) k (M - k)) for k of M members, subject to a sum of p_c(x) - p_c(all removed). The
    sum holds exactly, by elimination; Captum's ``KernelShap`` gives both ends the weight 10^6 instead. Coalitions are drawn
    from the kernel's distribution and then weigh the same, as in Captum, each followed by its complement (Covert & Lee 2021,
    https://arxiv.org/abs/2012.01536, section 4.2: less variance). If there are no more than ``samples``, all are taken once
    with the kernel's weight, and the values are exact; the passes that are left over are spent on the whole image. Where
    coalitions do not determine the values, they are as equal as possible.

    Maps (b, h, w), signed, in units of probability, constant on each superpixel. Superpixels are those of `lime`. SLIC runs on
    the CPU, image by image.

    Args:
        samples: number of perturbed images, the whole image and the one without any superpixel included; None: 1000, 500 below
            64 px (own decision: as `lime`).
        segments: number of superpixels asked for; SLIC may return fewer or more.
        sigma: of the blur before SLIC, in pixels; None: 3, 0 below 64 px (own decision).
        compactness: SLIC's weight of space against colour; None: 30, 0.1 for images that do not have three channels (own
            decision).
        fill: what replaces the superpixels outside the coalition.
        seed: of the coalitions.
    """

    label: ClassVar[str] = "KernelSHAP"

    def draw(self, rng: ImageRandom, count: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """The whole image, the empty one (both without weight: they are the constraint), and the coalitions."""
        most = int(count.max())
        real = torch.arange(most) < count[:, None]
        pairs = -(-(samples - 2) // 2)
        size = coalition_sizes(rng.uniform("size", (pairs,)), count)
        order = column_draws(rng.uniform, pairs, most, self.segments).masked_fill(~real[:, None], 2).argsort(2).argsort(2)
        members = order < size[:, :, None]
        drawn = torch.stack([members, real[:, None] & ~members], 2).flatten(1, 2)[:, : samples - 2]
        kept = torch.cat([real[:, None], torch.zeros_like(real)[:, None], drawn], 1)
        weight = torch.ones(kept.shape[:2], dtype=torch.float64)
        weight[:, :2] = 0
        for image, m in enumerate(count.tolist()):
            if 2**m <= samples:
                kept[image, 2:], weight[image, 2:] = real[image], 0
                kept[image, 2 : 2**m, :m], weight[image, 2 : 2**m] = every_coalition(m)
        return kept, weight

    def fit(self, kept: Tensor, weight: Tensor, p: Tensor) -> Tensor:
        """The constrained least squares."""
        return shapley_regression(kept, weight, p)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """Five seeds."""
        return {"seeds": [self.replace(seed=seed) for seed in range(5)]}


def coalition_sizes(u: Tensor, count: Tensor) -> Tensor:
    """Sizes (b, n) in 1..count-1 with probability proportional to 1 / (k (count - k)), from ``u`` (b, n) uniform in [0, 1)."""
    k, m = torch.arange(1, max(2, int(count.max())), dtype=torch.float64), count[:, None].double()
    mass = torch.where(k < m, 1 / (k * (m - k)), 0.0).cumsum(1)
    size = torch.searchsorted(mass, u.double() * mass[:, -1:], right=True) + 1
    return size.minimum(count[:, None] - 1)


def every_coalition(m: int) -> tuple[Tensor, Tensor]:
    """All coalitions of ``m`` members but the empty and the whole one, bool (2^m - 2, m), and the kernel's weights."""
    kept = (torch.arange(1, 2**m - 1)[:, None] >> torch.arange(m)) & 1
    kernel = [(m - 1) / (math.comb(m, k) * k * (m - k)) for k in range(1, m)]
    return kept.bool(), torch.tensor([0.0, *kernel], dtype=torch.float64)[kept.sum(1)]


def shapley_regression(kept: Tensor, weight: Tensor, p: Tensor) -> Tensor:
    """Values (b, m) minimising sum_n weight_n (p_n - p_1 - kept_n . values)^2 subject to sum values = p_0 - p_1.

    Takes samples (b, n, m), the first of which keeps all, the second nothing, weights (b, n) and targets (b, n). A feature that
    the first sample does not keep is none and gets 0. Of several minima the one nearest to equal values.
    """
    real = kept[:, 0]
    m = real.sum(1, keepdim=True)
    equal = (p[:, :1] - p[:, 1:2]) / m * real
    # Around equal values, what is left are deviations that sum to 0.
    z = kept - (kept.sum(2, keepdim=True) / m[:, None]) * real[:, None]
    rest = (p - p[:, 1:2])[:, :, None] - kept @ equal[:, :, None]
    weighted = (weight[:, :, None] * z).mT
    inverse = torch.linalg.pinv(weighted @ z, rtol=1e-10, hermitian=True)
    deviation: Tensor = inverse @ (weighted @ rest)
    return equal + deviation[:, :, 0]

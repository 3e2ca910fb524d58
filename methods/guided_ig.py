"""Guided IG: integrated gradients along a path that first changes the pixels with the smallest gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.gradients import Baseline, baseline_image, logit_gradient
from xbench.method import METHODS, Method
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps

CLOSE = 1e-9
"""How far, as a share of the whole path, a step may end from where it should."""


@METHODS.register("guided-ig")
@dataclass(frozen=True)
class GuidedIG(Method):
    r"""The path integral of the gradient from a baseline x' to x along an adaptive path, summed over the channels.

    $$
    g = \sum_k (x_k - x'_k) \sum_{t=1}^{T} \frac{\partial f_c}{\partial x_k} (x' + a^{t-1} (x - x')) \cdot (a^t_k - a^{t-1}_k),
    \quad \frac{\sum \lvert x - x' \rvert \, a^t}{\sum \lvert x - x' \rvert} = \frac{t}{T}
    $$

    Kapishnikov et al. 2021, https://arxiv.org/abs/2106.09788, algorithm 1, in the form of its authors' code
    (https://github.com/PAIR-code/saliency). Every value (pixel and channel) is at x' + a (x - x'), a from 0 to 1. Step t of T
    takes the gradient once and moves values until |x - x'|-weighted a has the mean t / T: first those that are behind
    t / T - ``max_distance`` up to there, then the ``fraction`` of smallest |gradient| that is not yet at t / T +
    ``max_distance`` towards that bound, all by the same share of their way, and if this is not enough the next smallest.
    Moves are weighted by the gradient. Maps (b, h, w), signed, in logits; by completeness a map sums to f_c(x) - f_c(x') up to
    the error of the Riemann sum. The logit is integrated (own decision; the paper's figures take the softmax).

    Args:
        steps: T, at least 1 (the code's default).
        fraction: share of the values that move at a time, in (0, 1] (the code's default).
        max_distance: how far a may be from the straight line's, in [0, 1]; 0 is the straight path of `integrated-gradients`, 1
            leaves the path free (the code's default).
        baseline: x'; ``zero`` is a black image, ``gray`` the classifier's mean pixel.

    Raises ValueError for a value that is not valid.
    """

    label: ClassVar[str] = "Guided IG"
    iterative: ClassVar[bool] = True
    quick: ClassVar[dict[str, int]] = {"steps": 5}

    steps: int = 200
    fraction: float = 0.25
    max_distance: float = 0.02
    baseline: Baseline = "zero"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")
        if not 0 <= self.max_distance <= 1:
            raise ValueError(f"max_distance must be in [0, 1], got {self.max_distance}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``."""
        size = classifier.batch_size
        parts = zip(x.detach().split(size), y.split(size), strict=True)
        return torch.cat([self._integrated(classifier, part, c).sum(1).to(x.dtype) for part, c in parts])

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass per step."""
        return Passes(self.steps, self.steps)

    def _integrated(self, classifier: Classifier, x: Images, y: Labels) -> Tensor:
        """The integral (b, c, h, w) of a batch in float64, in which the path is followed."""
        start = baseline_image(self.baseline, classifier, x).double()
        way = x.double() - start
        share = way.abs().flatten(1)
        share = share / share.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        a = torch.zeros_like(share)
        total = torch.zeros_like(share)
        for step in range(1, self.steps + 1):
            gradient = logit_gradient(classifier, (start + a.view_as(way) * way).to(x.dtype), y).double().flatten(1)
            moved = self._step(a, share, gradient.abs(), step / self.steps)
            total += gradient * (moved - a)
            a = moved
        return total.view_as(way) * way

    def _step(self, a: Tensor, share: Tensor, slope: Tensor, target: float) -> Tensor:
        """The positions (b, n) in [0, 1] of all values after the step that brings their mean, weighted by ``share``, to target.

        ``slope`` (b, n) is |gradient|; an image that equals its baseline has no shares, and its values stay.
        """
        low, high = max(target - self.max_distance, 0.0), min(target + self.max_distance, 1.0)
        a = a.clamp_min(low)
        slope = slope.masked_fill(share == 0, torch.inf)
        rank = int(self.fraction * (slope.shape[1] - 1)) + 1
        for _ in range(-(-slope.shape[1] // rank) + 1):  # each turn takes ``rank`` more values to their bound, or is the last
            missing = target * share.sum(1) - (share * a).sum(1)
            if not bool((missing > CLOSE).any()):
                break
            slope = slope.masked_fill(a >= high, torch.inf)
            chosen = (slope <= slope.kthvalue(rank, 1, keepdim=True).values) & slope.isfinite()
            room = (share * (high - a) * chosen).sum(1)
            part = torch.where(missing > CLOSE, (missing / room).nan_to_num(1, 1).clamp(0, 1), 0.0)[:, None]
            a = torch.where(chosen, torch.where(part == 1, high, a + part * (high - a)), a)
        return a

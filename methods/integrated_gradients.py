"""Integrated gradients: the logit's difference to a baseline, divided among the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients

from xbench.classifier import Classifier, Passes
from xbench.gradients import Baseline, baseline_image
from xbench.method import METHODS, Method
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("integrated-gradients")
@dataclass(frozen=True)
class IntegratedGradients(Method):
    r"""Path integral of the gradient from a baseline x' to x, times x - x', summed over the channels.

    $$g = \sum_k (x_k - x'_k) \int_0^1 \frac{\partial f_c}{\partial x_k} (x' + a (x - x')) \, da$$

    Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, equation 1, computed by Captum with ``steps`` Gauss-Legendre
    points. Maps (b, h, w), signed, in logits; by completeness a map sums to f_c(x) - f_c(x') up to the quadrature's error.
    A pixel that equals the baseline gets 0.

    Args:
        steps: points of the quadrature, at least 1 (the paper's 20 to 300; 50 is Captum's default).
        baseline: ``zero`` is a black image, ``gray`` the classifier's mean pixel.

    Raises ValueError if ``steps`` is below 1.
    """

    label: ClassVar[str] = "IG"
    quick: ClassVar[dict[str, int]] = {"steps": 5}

    steps: int = 50
    baseline: Baseline = "zero"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: must be at least 1")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``."""
        integrated = CaptumIntegratedGradients(classifier)
        baseline = baseline_image(self.baseline, classifier, x[:1])
        size = classifier.batch_size
        return torch.cat(
            [
                integrated.attribute(part, baseline, c, n_steps=self.steps, internal_batch_size=size).detach().sum(1)
                for part, c in zip(x.detach().split(size), y.split(size), strict=True)
            ]
        )

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass per step."""
        return Passes(self.steps, self.steps)

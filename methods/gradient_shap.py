"""Gradient SHAP: expected gradients between a baseline and noisy copies of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xbench.classifier import Classifier, Passes
from xbench.gradients import Baseline, baseline_image, mean_over_samples
from xbench.method import METHODS, Method
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("gradient-shap")
@dataclass(frozen=True)
class GradientShap(Method):
    r"""Mean of (x_n - x') d f_c / d x at x' + u (x_n - x'), over noisy images x_n and u ~ U(0, 1), summed over the channels.

    $$
    g = \frac{1}{N} \sum_{n=1}^{N} \sum_k (x_n - x')_k \, \frac{\partial f_c}{\partial x_k} (x' + u_n (x_n - x')), \quad x_n
    \sim \mathcal{N}(x, s^2), \quad u_n \sim U(0, 1)
    $$

    The expected gradients of Erion et al. 2021, https://arxiv.org/abs/1906.10670, equation 3, as Captum's ``GradientShap``
    computes them (Lundberg & Lee 2017, https://arxiv.org/abs/1705.07874), whose draws come from the global generators. Maps
    (b, h, w), signed, in logits; their sums estimate the mean of f_c(x_n) - f_c(x'). Those papers draw the baseline x' from
    the training data; a method here sees the classifier only, so that x' is one constant image (own decision).

    Args:
        samples: number of draws, at least 1 (own decision: as the steps of `integrated-gradients`).
        noise: standard deviation of x_n - x in units of a [0, 1] pixel, not negative; 0.09 is that of Captum's README (own
            decision). With 0 this is the Monte Carlo form of `integrated-gradients`.
        baseline: ``zero`` is a black image, ``gray`` the classifier's mean pixel.
        seed: of noise and u.

    Raises ValueError for a value that is not valid.
    """

    label: ClassVar[str] = "GradientSHAP"
    quick: ClassVar[dict[str, int]] = {"samples": 4}

    samples: int = 50
    noise: float = 0.09
    baseline: Baseline = "zero"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if not self.noise >= 0:
            raise ValueError(f"noise must not be negative, got {self.noise}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``."""

        def sample(part: Images, draws: ImageRandom, number: int) -> tuple[Images, Images]:
            noisy = part + self.noise * draws.normal("noise", part.shape[1:], number).to(part)
            start = baseline_image(self.baseline, classifier, part)
            return start.lerp(noisy, draws.uniform("path", (1, 1, 1), number).to(part)), noisy - start

        def term(gradient: Images, difference: Images) -> Images:
            return gradient * difference

        return mean_over_samples(classifier, x, y, rng, self.samples, sample, term).sum(1)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass per sample."""
        return Passes(self.samples, self.samples)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """Five seeds."""
        return {"seeds": [self.replace(seed=seed) for seed in range(5)]}

"""SmoothGrad: the gradient, or its square, averaged over noisy copies of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xbench.classifier import Classifier, Passes
from xbench.gradients import mean_over_samples
from xbench.method import METHODS, Method
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("smoothgrad")
@dataclass(frozen=True)
class SmoothGrad(Method):
    r"""Mean over noisy images x + N(0, s^2) of (d f_c / d x)^2 (SmoothGrad-squared), or of d f_c / d x; largest over channels.

    $$
    g = \max_k \frac{1}{N} \sum_{n=1}^{N} \left( \frac{\partial f_c}{\partial x_k} (x + e_n) \right)^2, \quad e_n \sim
    \mathcal{N}(0, s^2), \quad s = 0.15 \, (\max x - \min x)
    $$

    Smilkov et al. 2017, https://arxiv.org/abs/1706.03825, with s = 0.15 (max x - min x) of each image; the square is that of
    Hooker et al. 2019, https://arxiv.org/abs/1806.10758. As for `gradient`, a pixel's value is the largest over its channels,
    without ``squared`` that of |mean| (own decision). Maps (b, h, w), >= 0, in (logits per unit of a [0, 1] pixel)^2, or
    without the square. Noisy pixels are not clipped to [0, 1]. Equal to Captum's ``NoiseTunnel`` of ``Saliency``, whose noise
    comes from the global generator.

    Args:
        samples: number of noisy images, at least 1.
        noise: standard deviation of the noise as a share of the image's range, not negative.
        squared: whether gradients are squared before they are averaged.
        seed: of the noise.

    Raises ValueError for a value that is not valid.
    """

    label: ClassVar[str] = "SmoothGrad"
    quick: ClassVar[dict[str, int]] = {"samples": 4}

    samples: int = 50
    noise: float = 0.15
    squared: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if not self.noise >= 0:
            raise ValueError(f"noise must not be negative, got {self.noise}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``."""

        def sample(part: Images, draws: ImageRandom, number: int) -> tuple[Images, Images]:
            deviation = self.noise * (part.amax((1, 2, 3), keepdim=True) - part.amin((1, 2, 3), keepdim=True))
            noisy = part + deviation * draws.normal("noise", part.shape[1:], number).to(part)
            return noisy, noisy

        def term(gradient: Images, _noisy: Images) -> Images:
            return gradient.square() if self.squared else gradient

        return mean_over_samples(classifier, x, y, rng, self.samples, sample, term).abs().amax(1)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass per sample."""
        return Passes(self.samples, self.samples)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """Five seeds."""
        return {"seeds": [self.replace(seed=seed) for seed in range(5)]}

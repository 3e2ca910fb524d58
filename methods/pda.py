"""PDA: prediction difference analysis, with windows sampled from a Gaussian conditional on what surrounds them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.errors import NotApplicable
from xbench.method import METHODS, Method
from xbench.methods.mp2 import log_odds
from xbench.methods.sliding_patch import covers
from xbench.ops.conditional import conditional_windows
from xbench.perturb import stream
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Logits, Maps, Masks

PADDING = 2
"""Width in pixels of the frame around a window on which its values are conditioned."""
INSTANCES = 100_000
"""N of the Laplace correction."""


@METHODS.register("pda")
@dataclass(frozen=True)
class PredictionDifferenceAnalysis(Method):
    r"""The loss of evidence for the class when a window is unknown, averaged over the windows that contain a pixel.

    $$
    g(u) = \text{mean}_{W \ni u} \left[ e(p_c(x)) - e(p_c(x \text{ without } W)) \right], \quad e(p) = \log_2 \frac{p N + 1}{(1
    - p) N + k - 1}
    $$

    $$p_c(x \text{ without } W) = \text{mean} \; p_c(x \text{ with } W \sim \mathcal{N}(\text{patch} \, | \, \text{frame}))$$

    Zintgraf et al. 2017 (https://arxiv.org/abs/1702.04595), algorithm 1, in the form of the authors' code
    (https://github.com/lmzintgraf/DeepVis-PredDiff). p(c | x without the window) is the mean probability over samples of the
    window from a Gaussian of the patch, window and a frame of 2 px, conditional on the frame, each channel by itself, clipped
    to [0, 1]. The value of a window is log2 odds of p(c | x) minus that, in bits, after the Laplace correction (p N + 1) / (N +
    k) with k classes and N = 100000 as in the code. Values are signed: above 0 = the window speaks for the class.

    Own decisions: the code fits the Gaussian to other images of the dataset, which a method here does not have; it is fitted to
    all patches of the image itself (at most 20000), with 1 % of the mean variance added to the diagonal
    (`xbench.ops.conditional`). Where windows do not reach the border in whole steps, a last one is flush with it.

    Args:
        window: side of a window in pixels; None: 10 at 224 px as in the paper, scaled with the height and rounded, at least 3.
        stride: step between windows in pixels, at most ``window``; None: 1 below 64 px, half a window above (own decision). The
            paper's maps have 1 at 224 px, which takes 462 251 passes an image; half a window takes 19 361.
        samples: of a window.
        seed: of the samples.
    """

    label: ClassVar[str] = "PDA"
    quick: ClassVar[dict[str, Any]] = {"window": 14, "stride": 14, "samples": 2}

    window: int | None = None
    stride: int | None = None
    samples: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("window", "stride", "samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) in bits; NotApplicable if a window and its frame do not fit, or the stride leaves gaps."""
        if reason := self.not_applicable(classifier):
            raise NotApplicable(reason)
        chunks = torch.arange(len(x), device=x.device).split(classifier.batch_size)
        return torch.cat(
            [self._explain(classifier, x[i], y[i], ImageRandom(rng.seed, [rng.ids[j] for j in i.tolist()])) for i in chunks]
        )

    def _explain(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        _, c, h, w = x.shape
        window, _ = self._window(classifier.shape)
        tops, lefts = (torch.tensor(starts, device=x.device) for starts in self._starts(classifier.shape))
        rows, columns = len(tops), len(lefts)
        fit = conditional_windows(x, window, PADDING)

        @functools.lru_cache(maxsize=1)
        def draws(position: int) -> Float[Tensor, "b samples c pixels"]:
            return rng.normal("windows", (self.samples, c, window**2), position).to(x)

        def place(step: Tensor) -> tuple[Tensor, Tensor]:
            position = (step // self.samples).clamp(max=rows * columns - 1)
            return tops[position // columns], lefts[position % columns]

        def mask_of(_image: Tensor, step: Tensor) -> Masks:
            top, left = place(step)
            hole = covers(top, window, h)[:, :, None] & covers(left, window, w)[:, None, :]
            # The last step is the untouched image.
            return ~(hole & (step < rows * columns * self.samples)[:, None, None])[:, None]

        def fill(image: Tensor, step: Tensor, _keep: Masks) -> Images:
            top, left = place(step)
            position = (step // self.samples).clamp(max=rows * columns - 1)
            noise = x.new_empty(len(image), c, window**2)
            for number in position.unique().tolist():
                here = position == number
                noise[here] = draws(number)[image[here], step[here] % self.samples]
            return fit(image, top, left, noise).clamp(0, 1)

        p = stream(classifier, x, rows * columns * self.samples + 1, mask_of, fill, both_probabilities(y))
        whole = p[:, -1]
        without = p[:, :-1].view(len(x), rows, columns, self.samples, 2).mean(3)
        evidence = corrected_odds(whole, classifier.classes)[:, None, None] - corrected_odds(without, classifier.classes)
        down, right = (covers(starts, window, n).to(x) for starts, n in ((tops, h), (lefts, w)))
        return down.mT @ evidence @ right / (down.sum(0)[:, None] * right.sum(0))

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward pass per window and sample, and one for the untouched image."""
        tops, lefts = self._starts(shape)
        return Passes(forward=len(tops) * len(lefts) * self.samples + 1)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """A window and its frame are larger than the image, or the stride larger than a window."""
        window, stride = self._window(classifier.shape)
        _, h, w = classifier.shape
        if window + 2 * PADDING > min(h, w):
            return f"a window of {window} px with a frame of {PADDING} px does not fit an image of {h} x {w} px"
        return f"a stride of {stride} px leaves gaps between windows of {window} px" if stride > window else None

    def resolved(self, shape: tuple[int, int, int]) -> PredictionDifferenceAnalysis:
        """The same method with the defaults of images of ``shape`` filled in."""
        window, stride = self._window(shape)
        return self.replace(window=window, stride=stride)

    def sweeps(self, shape: tuple[int, int, int]) -> dict[str, list[Method]]:
        """Five seeds."""
        return {"seeds": [self.replace(seed=seed) for seed in range(5)]}

    def _window(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        """Window side and stride."""
        window = self.window or max(3, round(10 * shape[1] / 224))
        return window, self.stride or (math.ceil(window / 2) if shape[1] >= 64 else 1)

    def _starts(self, shape: tuple[int, int, int]) -> tuple[list[int], list[int]]:
        """First rows and first columns of the windows."""
        window, stride = self._window(shape)
        rows, columns = (sorted({*range(0, n - window + 1, stride), max(0, n - window)}) for n in shape[1:])
        return rows, columns


def both_probabilities(y: Labels) -> Callable[[Logits, Tensor], Float[Tensor, "n 2"]]:
    """Selects the probability of each image's class ``y`` (b,) and that of all others, neither rounded to 1."""

    def select(logits: Logits, image: Tensor) -> Float[Tensor, "n 2"]:
        odds = log_odds(logits, y[image])
        return torch.stack([odds.sigmoid(), (-odds).sigmoid()], 1)

    return select


def corrected_odds(p: Tensor, classes: int) -> Tensor:
    """log2 odds of (p N + 1) / (N + classes), from the probabilities p and 1 - p on the last axis."""
    return torch.log2((p[..., 0] * INSTANCES + 1) / (p[..., 1] * INSTANCES + classes - 1))

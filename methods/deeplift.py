"""DeepLIFT: the logit's difference to a baseline, handed back through differences instead of derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from xbench.classifier import Classifier, Passes
from xbench.errors import NotApplicable
from xbench.gradients import Baseline, baseline_image
from xbench.method import METHODS, Method
from xbench.ops.rewriting import RescaleRule
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps

GAP = 1e-4
"""Largest gap of completeness, as a share of the sum of all |contributions|, that is rounding (own decision)."""


@METHODS.register("deeplift")
@dataclass(frozen=True)
class DeepLift(Method):
    r"""Contributions (x - x') m of the pixels to f_c(x) - f_c(x'), m the rescale rule's multipliers, summed over channels.

    $$
    g = \sum_k (x_k - x'_k) \, m_k, \quad m_k = \frac{\partial f_c}{\partial x_k} \text{ with } \frac{s(z) - s(z')}{z - z'}
    \text{ for } s'(z)
    $$

    s is every nonlinearity, z and z' its inputs for x and x'.

    Shrikumar et al. 2017, https://arxiv.org/abs/1704.02685, section 3.5.2, for f_c the logit. Maps (b, h, w), signed, in
    logits; by completeness a map sums to f_c(x) - f_c(x'). Equal to Captum's ``DeepLift`` where every nonlinearity is
    a module that is called once and that no other follows at once. Functional and in-place ones, a ReLU directly before a
    max-pooling and overlapping windows, on which Captum 0.9 is silently wrong, and repeated modules, on which it fails, are
    handled too, see `xbench.ops.rewriting.RescaleRule`. Does not apply to a network with another nonlinearity
    (attention, a product of activations, ...): its maps are not complete, which is checked on every image.

    Args:
        baseline: x'; ``zero`` is a black image, ``gray`` the classifier's mean pixel.
    """

    label: ClassVar[str] = "DeepLIFT"

    baseline: Baseline = "zero"

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``; NotApplicable if completeness fails."""
        size = max(1, classifier.batch_size // 2)  # image and baseline are a batch
        maps = []
        for part, c in zip(x.detach().split(size), y.split(size), strict=True):
            start = baseline_image(self.baseline, classifier, part)
            image = part.clone().requires_grad_()
            with torch.enable_grad(), RescaleRule():
                logits = classifier(torch.cat([image, start])).gather(1, c.repeat(2)[:, None])[:, 0]
                (multiplier,) = torch.autograd.grad(logits[: len(part)].sum(), image)
            contribution = (part - start) * multiplier
            f, f_start = logits.detach().chunk(2)
            gap = (contribution.sum((1, 2, 3)) - (f - f_start)).abs()
            if bool((gap > GAP * (contribution.abs().sum((1, 2, 3)) + f.abs() + f_start.abs())).any()):
                raise NotApplicable(
                    f"classifier {classifier.name!r} has a nonlinearity without a DeepLIFT rule: "
                    f"contributions miss the logit's difference by {float(gap.max()):.2g}"
                )
            maps.append(contribution.sum(1))
        return torch.cat(maps)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass of the image and of the baseline."""
        return Passes(2, 2)

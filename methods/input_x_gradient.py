"""Input x gradient: the first-order share of each pixel in the logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from captum.attr import InputXGradient as CaptumInputXGradient

from xbench.classifier import Classifier, Passes
from xbench.method import METHODS, Method
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("input-x-gradient")
@dataclass(frozen=True)
class InputXGradient(Method):
    r"""Pixel times derivative of the class's logit f_c, summed over the channels: sum x d f_c / d x.

    $$g = \sum_k x_k \frac{\partial f_c}{\partial x_k}$$

    Shrikumar et al. 2016, https://arxiv.org/abs/1605.01713, computed by Captum's ``InputXGradient``. Maps (b, h, w), signed, in
    logits. The input is the [0, 1] pixel, not the normalised one (own decision), so that a black pixel gets 0.
    """

    label: ClassVar[str] = "Input x Gradient"

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``."""
        product = CaptumInputXGradient(classifier)
        size = classifier.batch_size
        batches = zip(x.detach().split(size), y.split(size), strict=True)
        return torch.cat([product.attribute(part.clone().requires_grad_(), c).detach().sum(1) for part, c in batches])

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass."""
        return Passes(1, 1)

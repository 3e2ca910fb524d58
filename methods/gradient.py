"""Gradient: how much each pixel moves the class's logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from captum.attr import Saliency

from xbench.classifier import Classifier, Passes
from xbench.method import METHODS, Method
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("gradient")
@dataclass(frozen=True)
class Gradient(Method):
    r"""Largest absolute derivative of the class's logit f_c over the channels of a pixel: max |d f_c / d x|.

    $$g = \max_k \left\lvert \frac{\partial f_c}{\partial x_k} \right\rvert$$

    Simonyan et al. 2014, https://arxiv.org/abs/1312.6034, section 3, computed by Captum's ``Saliency``. Maps (b, h, w), >= 0,
    in logits per unit of a [0, 1] pixel. Not multiplied by the input.
    """

    label: ClassVar[str] = "Gradient"

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``."""
        saliency = Saliency(classifier)
        size = classifier.batch_size
        batches = zip(x.detach().split(size), y.split(size), strict=True)
        # Captum warns about images that do not require gradients yet, and then switches them on in the caller's tensor.
        return torch.cat([saliency.attribute(part.clone().requires_grad_(), c).amax(1) for part, c in batches])

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass."""
        return Passes(1, 1)

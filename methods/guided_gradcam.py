"""Guided GradCAM: guided backpropagation within the region that GradCAM finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xbench.classifier import Classifier, Passes
from xbench.method import METHODS, Method
from xbench.methods.gradcam import GradCam
from xbench.methods.guided_backprop import GuidedBackprop
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("guided-gradcam")
@dataclass(frozen=True)
class GuidedGradCam(Method):
    r"""The maps of `guided-backprop` times those of `gradcam`: (b, h, w), >= 0.

    $$g = g_{\text{guided-backprop}} \cdot g_{\text{gradcam}}$$

    Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, section 3.1. Equal to Captum's ``GuidedGradCam`` with
    ``interpolate_mode="bilinear"``, as in the paper, for networks of ``nn.ReLU``; the largest absolute value over the channels
    (own decision). GradCAM's weights are the means of plain gradients, so that two passes are needed. Does not apply to a
    classifier without ``cam_layer``, or without ReLU.
    """

    label: ClassVar[str] = "Guided GradCAM"

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``; NotApplicable where one of the two does not apply."""
        return GradCam()(classifier, x, y, rng) * GuidedBackprop()(classifier, x, y, rng)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """The passes of both methods."""
        return GradCam().cost(shape) + GuidedBackprop().cost(shape)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """Why one of the two does not apply, or None."""
        return GradCam().not_applicable(classifier) or GuidedBackprop().not_applicable(classifier)

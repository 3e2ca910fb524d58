"""GradCAM: the activations of the last convolution, weighted by their mean gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from captum.attr import LayerGradCam

from xbench.classifier import Classifier, Passes
from xbench.errors import NotApplicable
from xbench.method import METHODS, Method
from xbench.ops.resize import resized
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("gradcam")
@dataclass(frozen=True)
class GradCam(Method):
    r"""Activations A_k of the last convolution, weighted by the spatial means w_k of d f_c / d A_k: ReLU(sum_k w_k A_k).

    $$
    g = \text{up} \left( \text{ReLU} \sum_k w_k A_k \right), \quad w_k = \text{mean} \left( \frac{\partial f_c}{\partial A_k}
    \right)
    $$

    Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, equations 1 and 2, computed by Captum's ``LayerGradCam`` on the
    classifier's ``cam_layer``; does not apply to a classifier that has none. Maps (b, h, w), >= 0, enlarged to the image's size
    by bilinear interpolation with ``align_corners=False`` (own decision; the paper only says "upsampled").
    """

    label: ClassVar[str] = "GradCAM"

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``; NotApplicable if the classifier declares no ``cam_layer``."""
        gradcam = LayerGradCam(classifier, classifier.target_layer())
        size = classifier.batch_size
        batches = zip(x.detach().split(size), y.split(size), strict=True)
        coarse = torch.cat([gradcam.attribute(part, c, relu_attributions=True).detach() for part, c in batches])
        return resized(coarse[:, 0], x)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward pass, and one backward pass that ends at the layer."""
        return Passes(1, 1)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """Why the classifier has no activation map, or None."""
        try:
            classifier.target_layer()
        except NotApplicable as reason:
            return str(reason)
        return None

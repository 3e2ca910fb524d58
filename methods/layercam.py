"""LayerCAM: feature maps weighted, place by place, by their positive gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xbench.classifier import Classifier, Passes
from xbench.method import METHODS, Method
from xbench.methods._activations import combined, no_feature_maps
from xbench.ops.resize import resized
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("layercam")
@dataclass(frozen=True)
class LayerCam(Method):
    r"""ReLU(sum_k ReLU(d f_c / d A_k) A_k), A_k the feature maps of the classifier's ``cam_layer``, f_c the class's logit.

    $$g = \text{up} \left( \text{ReLU} \sum_k \text{ReLU} \left( \frac{\partial f_c}{\partial A_k} \right) A_k \right)$$

    Jiang et al. 2021, https://ieeexplore.ieee.org/document/9462463, on that one layer; the paper also fuses the
    maps of several. Does not apply to a classifier without ``cam_layer``. Maps (b, h, w), >= 0, enlarged to the image's size by
    bilinear interpolation with ``align_corners=False`` (own decision).
    """

    label: ClassVar[str] = "LayerCAM"

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``; NotApplicable if the classifier declares no ``cam_layer``."""
        maps = combined(classifier, x, y, lambda a, gradient: (gradient.relu() * a).sum(1).relu())
        return resized(maps, x)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward pass, and one backward pass that ends at the layer."""
        return Passes(1, 1)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """Why the classifier has no feature maps, or None."""
        return no_feature_maps(classifier)

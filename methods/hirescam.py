"""HiResCAM: feature maps times their gradients, place by place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xbench.classifier import Classifier, Passes
from xbench.method import METHODS, Method
from xbench.methods._activations import combined, no_feature_maps
from xbench.ops.resize import resized
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("hirescam")
@dataclass(frozen=True)
class HiResCam(Method):
    r"""sum_k (d f_c / d A_k) A_k, A_k the feature maps of the classifier's ``cam_layer``, f_c the class's logit.

    $$g = \text{up} \left( \sum_k \frac{\partial f_c}{\partial A_k} A_k \right)$$

    Draelos and Carin 2020, https://arxiv.org/abs/2011.08891: signed, because its guarantee needs the sign: where one linear
    layer follows, the values at the layer's resolution add up to f_c less its bias (pytorch-grad-cam cuts negative values off).
    Does not apply to a classifier without ``cam_layer``. Maps (b, h, w), in logits, enlarged to the image's size by bilinear
    interpolation with ``align_corners=False`` (own decision).
    """

    label: ClassVar[str] = "HiResCAM"

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``; NotApplicable if the classifier declares no ``cam_layer``."""
        return resized(combined(classifier, x, y, lambda a, gradient: (gradient * a).sum(1)), x)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward pass, and one backward pass that ends at the layer."""
        return Passes(1, 1)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """Why the classifier has no feature maps, or None."""
        return no_feature_maps(classifier)

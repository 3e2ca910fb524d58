"""ScoreCAM: feature maps, weighted by the class probability of what each of them shows of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.fill import Fill, make_filler, no_inpainter, valid_fill
from xbench.method import METHODS, Method
from xbench.methods._activations import feature_maps, no_feature_maps
from xbench.ops.normalise import minmax
from xbench.ops.resize import resized
from xbench.perturb import probability_of, stream
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("scorecam")
@dataclass(frozen=True)
class ScoreCam(Method):
    r"""ReLU(sum_k p_c(x * norm(A_k)) A_k): A_k the feature maps of the classifier's ``cam_layer``, p_c the class's probability.

    $$
    g = \text{up} \left( \text{ReLU} \sum_k p_c(x M_k + b (1 - M_k)) \, A_k \right), \quad M_k = \text{minmax}(\text{up}(A_k))
    $$

    b is the ``fill``.

    Wang et al. 2020, https://arxiv.org/abs/1910.01279, with the probability as in the authors' code, where the paper subtracts
    that of a baseline. norm enlarges a feature map to the image's size by bilinear interpolation with ``align_corners=False``
    and scales it to [0, 1]; a constant one gets the weight 0, but its pass is made all the same (own decision: so that every
    image of a classifier costs the same). No softmax over the weights, unlike pytorch-grad-cam. Maps (b, h, w), >= 0, enlarged
    in the same way.

    Costs one forward pass per feature map and one for the feature maps themselves. Does not apply to a classifier without
    ``cam_layer``.

    Args:
        fill: what shows where a feature map is low; the paper multiplies the normalised image by it, which is ``gray``.
    """

    label: ClassVar[str] = "ScoreCAM"

    fill: Fill = "gray"

    def __post_init__(self) -> None:
        valid_fill(self.fill)

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``; NotApplicable if the classifier declares no ``cam_layer``."""
        maps = feature_maps(classifier, x)

        def mask_of(image: Tensor, step: Tensor) -> Tensor:
            return minmax(resized(maps[image, step], x))[:, None]

        fill = make_filler(self.fill, classifier, x, rng)
        p = stream(classifier, x, maps.shape[1], mask_of, fill, probability_of(y))
        varies = maps.amax((2, 3)) > maps.amin((2, 3))
        return resized(torch.einsum("bk,bkuv->buv", p * varies, maps).relu(), x)

    def cost_for(self, classifier: Classifier) -> Passes:
        """One forward pass for the feature maps, and one for each of them."""
        return Passes(forward=1 + classifier.cam_channels)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """Why the classifier has no feature maps, or there is no such fill, or None."""
        return no_feature_maps(classifier) or no_inpainter(self.fill, classifier)

"""GroupCAM: groups of weighted feature maps, themselves weighted by what each of them shows of a blurred image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.method import METHODS, Method
from xbench.methods._activations import combined, no_feature_maps
from xbench.ops.blur import gaussian_blur
from xbench.ops.normalise import minmax
from xbench.ops.resize import resized
from xbench.perturb import probability_of, stream
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps

KEPT = 0.3


@METHODS.register("groupcam")
@dataclass(frozen=True)
class GroupCam(Method):
    r"""sum_l ReLU(p_c(x under M_l) - p_c(blurred x)) M_l, M_l the mask of the l-th group of consecutive feature maps.

    $$
    g = \sum_l \text{ReLU} \left( p_c(x M_l + \tilde x (1 - M_l)) - p_c(\tilde x) \right) M_l, \quad M_l = \text{minmax} \left(
    \text{up} \left( \text{top}_{30 \%} \; \text{ReLU} \sum_{k \in G_l} w_k A_k \right) \right)
    $$

    G_l are the l-th group's feature maps, x~ is the blurred image.

    Zhang et al. 2021, https://arxiv.org/abs/2103.13859. The feature maps A_k of the classifier's ``cam_layer`` are weighted by
    the spatial means of d f_c / d A_k, as in GradCAM, and added up within each group. ReLU, values up to the group's 70th
    percentile set to 0, bilinear interpolation to the image's size with ``align_corners=False`` and scaling to [0, 1] give
    M_l; where M_l is 0 the image is blurred. As in the authors' code (https://github.com/wofmanaf/Group-CAM) a scaled mask is
    what is added up, and the blur is a Gaussian of 50 px cut off at 25 px, for 224 px (scaled with the height: own decision).
    A group without a positive value, or constant, adds nothing. Borders of the blur are replicated, and a score that is
    negative is cut off before the sum rather than the sum behind it (own decisions). Maps (b, h, w), >= 0, not scaled.

    Costs a forward pass for each group, for the image and for the blurred one, and a backward pass that ends at the layer.
    Does not apply to a classifier without ``cam_layer``.

    Args:
        groups: number of groups, of sizes that differ by at most 1; a classifier with fewer feature maps has as many groups
            as feature maps (own decision).
    """

    label: ClassVar[str] = "GroupCAM"
    iterative: ClassVar[bool] = True  # no iteration, but differences of two nearly equal probabilities

    groups: int = 32

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise ValueError(f"groups must be at least 1, got {self.groups}")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``; NotApplicable if the classifier declares no ``cam_layer``."""

        def grouped(maps: Tensor, gradient: Tensor) -> Tensor:
            weighted = (gradient.mean((2, 3), keepdim=True) * maps).tensor_split(min(self.groups, maps.shape[1]), 1)
            sums = torch.stack([group.sum(1) for group in weighted], 1).relu()
            return sums.where(sums > sums.flatten(2).quantile(1 - KEPT, 2)[:, :, None, None], 0)

        coarse = combined(classifier, x, y, grouped)
        groups, height = coarse.shape[1], x.shape[2]
        blurred = gaussian_blur(x, 50 * height / 224, max(1, round(25 * height / 224)))

        def mask_of(image: Tensor, step: Tensor) -> Tensor:
            masks = minmax(resized(coarse[image, step.clamp_max(groups - 1)], x))
            return (masks * (step < groups)[:, None, None])[:, None]  # the last step is the blurred image

        def fill(image: Tensor, _step: Tensor, _mask: Tensor) -> Tensor:
            return blurred.index_select(0, image)

        p = stream(classifier, x, groups + 1, mask_of, fill, probability_of(y))
        gain = (p[:, :-1] - p[:, -1:]).relu()
        maps = torch.zeros_like(x[:, 0])
        for group in range(groups):
            maps += gain[:, group, None, None] * minmax(resized(coarse[:, group], x))
        return maps

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """At most: for the image and for the blurred one, for each group, and the gradient."""
        return Passes(self.groups + 2, 1)

    def cost_for(self, classifier: Classifier) -> Passes:
        """The same with as many groups as the classifier's feature maps allow."""
        return Passes(min(self.groups, classifier.cam_channels) + 2, 1)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """Why the classifier has no feature maps, or None."""
        return no_feature_maps(classifier)

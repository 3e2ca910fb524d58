"""I-GOS++: separate masks for deletion and insertion, optimised together along integrated gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from xbench.classifier import Classifier
from xbench.method import METHODS
from xbench.methods.igos import Grids, Igos, Penalty, enlarged, mean_square, variation
from xbench.types import Images, Scores

BANDWIDTH = 0.01
"""Of the bilateral weights, in squared differences of the normalised image."""


@METHODS.register("igos++")
@dataclass(frozen=True)
class IgosPlusPlus(Igos):
    r"""The smallest smooth deletion that destroys the class probability and whose inverse restores it, by two masks (I-GOS++).

    $$
    g = 1 - d i, \quad d, i = \operatorname{argmin}_{d, i} P(d, \tilde x, x) + P(d i, \tilde x, x) - P(i, x, \tilde x) - P(d i,
    x, \tilde x) + \lambda_1 \, \text{mean}(1 - d i) + \lambda_2 \, \text{BTV}(d i)
    $$

    $$P(m, a, b) = \frac{1}{n} \sum_{j=1}^{n} p_c \left( a + \frac{j}{n} m (b - a) + e_j \right)$$

    x~ is the blurred image, e_j noise, lambda_1 the ``sparsity`` and lambda_2 the ``smoothness``.

    Khorram, Lawson and Li 2021 (https://arxiv.org/abs/2012.15783), in the form of the authors' code
    (https://github.com/khorrams/IGOS_pp). As I-GOS (`igos`), with a mask d to delete from the image and one i to delete from
    what is inserted into its blur. The score is the mean class probability on the paths of d and d i from the blur to the
    masked image, minus that on the paths of i and d i from the image to the masked blur: what both masks remove must destroy
    the class, and restore it. To it come the mean of 1 - d i and 20 times the bilateral total variation: half the total
    variation of the grid d i, plus half that of the enlarged grid with each squared difference weighted by exp(-|difference of
    the image|^2 / 0.01). A step descends half the score's gradient plus that of the rest; the line search compares the whole
    sum. The map is 1 - d i, in [0, 1]: 1 = important.

    Own decisions: those of I-GOS; and the weight is the mean of its values over the channels for both axes, where the code
    takes that for one axis and the mean difference for the other.

    Args:
        iterations: steps of gradient descent.
        points: of the path over which the gradient is integrated.
        upsample: size m of a grid cell in pixels; None: 8 (28 x 28 at 224 px), 2 below 64 px (own decision).
        step: step size with which the line search begins.
        sparsity: weight of the mean of 1 - d i.
        smoothness: weight of the bilateral total variation.
        seed: of the noise.
    """

    label: ClassVar[str] = "I-GOS++"
    masks: ClassVar[int] = 2
    signs: ClassVar[tuple[int, ...]] = (1, 1, -1, -1)
    half: ClassVar[float] = 0.5

    def composed(self, masks: Float[Tensor, "b masks h w"]) -> Float[Tensor, "b scores h w"]:
        """The masks d and d i to delete, i and d i to insert."""
        deletion, insertion = masks.unbind(1)
        both = deletion * insertion
        return torch.stack([deletion, both, insertion, both], 1)

    def penalty(self, classifier: Classifier, x: Images) -> Penalty:
        """Mean of 1 - d i and bilateral total variation."""
        z = (x - classifier.mean) / classifier.std
        weights = [torch.exp(-z.diff(dim=axis).square() / BANDWIDTH).mean(1, keepdim=True) for axis in (2, 3)]

        def penalty(image: Tensor, grids: Grids) -> Scores:
            both = grids.prod(1, keepdim=True)
            large = enlarged(both, x)
            bilateral = sum(mean_square(large.diff(dim=a), v[image]) for a, v in zip((2, 3), weights, strict=True))
            return self.sparsity * (1 - both).abs().mean((1, 2, 3)) + self.smoothness * (variation(both) + bilateral) / 2

        return penalty

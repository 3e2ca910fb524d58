"""Insertion: how fast the class probability rises when a blurred image is sharpened, the most important pixels first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from xbench.explainer import Explainer
from xbench.metric import METRICS, Column, Scored
from xbench.metrics._removal import Removing, area_under_curve, removed_counts
from xbench.ops.blur import gaussian_blur
from xbench.subset import Batch
from xbench.trajectory import Removal, follow
from xbench.types import Images, Maps, Masks

SIGMA = 5 / 224
"""Standard deviation of the blur, as a share of the image's height; the kernel ends at one standard deviation."""
FAMILY = "insertion"
"""The name of the blur among the fills of stored answers."""


@METRICS.register("insertion")
@dataclass(frozen=True)
class Insertion(Removing):
    r"""Area under the softmax probability of the class against the share of pixels shown, most important first.

    $$\int_0^1 p_c(x_k) \, dk$$

    x_k is the blurred image with the share k of the image's pixels that the map calls most important.

    Petsiuk et al. 2018 (RISE), https://arxiv.org/abs/1806.07421. The curve starts at a blurred image; every step shows the next
    ceil(h*w / 28) pixels as they are, until the image is whole. The area is taken by trapezoid, lies in [0, 1] and is not
    divided by the maximum; higher = better.

    ``curves["probability"]`` (b, points) is the curve from the blurred image on: 29 points at 28 and at 224 px.

    Own decisions: the blur is a Gaussian of 5 px cut off at 5 px, an 11-px kernel, at 224 px; both numbers scale with the
    height, the cut rounded up, and borders are replicated (the authors' kernel of that width and sigma is reflected at its own
    borders, which makes it flatter, and their image is surrounded by zeros). Below 64 px so small a blur hides little: a digit
    of 28 px stays readable under a 3-px kernel (`mnist-cnn` gives its class 0.93 there, 0.97 without blur), so that all curves
    start high and methods differ little. Steps, shares and
    ties are those of ``deletion``.
    """

    columns: ClassVar[tuple[Column, ...]] = (Column("auc", "Insertion", True),)
    curve_axis: ClassVar[tuple[str, float, float | None] | None] = ("share of the pixels shown", 0, 1)

    def __call__(self, explainer: Explainer, batch: Batch, maps: Maps | None) -> Scored:
        """The areas (b,) and the curves."""
        assert maps is not None
        pixels = maps[0].numel()
        blurred = substrate(batch.x)

        def fill(image: Tensor, _step: Tensor, _keep: Masks) -> Images:
            return blurred.index_select(0, image)

        return area_under_curve(follow(explainer, batch, maps, self.family, fill, self.removals(pixels)), pixels)

    @property
    def family(self) -> str:
        """See ``Removing``."""
        return FAMILY

    def removals(self, pixels: int) -> list[Removal]:
        """What is not yet shown at every point of the curve."""
        return [Removal("low", pixels - count) for count in removed_counts(pixels)]


def substrate(x: Images) -> Images:
    """The blurred images (b, c, h, w) that the curve starts from."""
    sigma = SIGMA * x.shape[2]
    return gaussian_blur(x, sigma, math.ceil(sigma - 1e-9))

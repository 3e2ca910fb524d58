"""Control: the ink itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xbench.classifier import Classifier, Passes
from xbench.method import METHODS, Method
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("intensity")
@dataclass(frozen=True)
class Intensity(Method):
    r"""Distance of every pixel to the image's mean colour, |x - mean(x)|, averaged over the channels (control).

    $$g = \text{mean}_k \, \lvert x_k - \text{mean}(x_k) \rvert$$

    Maps (b, h, w) in [0, 1]. On digits this is the ink, which alone wins much where removed pixels become black. Own decision:
    the mean is the image's, not the classifier's, so that the map knows nothing but the image.
    """

    control: ClassVar[bool] = True
    label: ClassVar[str] = "Intensity"

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w); the class does not change them."""
        return (x - x.mean((2, 3), keepdim=True)).abs().mean(1)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """No classifier pass."""
        return Passes()

"""Control: random maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xbench.classifier import Classifier, Passes
from xbench.method import METHODS, Method
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("random")
@dataclass(frozen=True)
class RandomMap(Method):
    r"""Independent uniform values in [0, 1) per pixel, drawn from the image's id: what a map scores by chance (control).

    $$g(u) \sim U(0, 1)$$

    Maps (b, h, w). Own decision: no smoothing, so that every order of the pixels is equally likely.
    """

    control: ClassVar[bool] = True
    label: ClassVar[str] = "Random"

    seed: int = 0

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w); neither pixels nor class change them."""
        return rng.uniform("random", x.shape[2:]).to(x)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """No classifier pass."""
        return Passes()

"""Control: a prior for the centre of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from xbench.classifier import Classifier, Passes
from xbench.method import METHODS, Method
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("centre")
@dataclass(frozen=True)
class Centre(Method):
    r"""A Gaussian in the middle of the image, the same for all images: what knowing that objects are centred scores (control).

    $$g = \exp \left( - \frac{u^2 + v^2}{2 \sigma^2} \right)$$

    u and v are the pixel's distances from the middle as shares of the height and of the width.

    Maps (b, h, w) in (0, 1]. ``sigma`` is the standard deviation as a share of each side; 0.25 is our own decision: one
    standard deviation to both sides is the middle half.

    Raises ValueError if ``sigma`` is not above 0.
    """

    control: ClassVar[bool] = True
    label: ClassVar[str] = "Centre"

    sigma: float = 0.25

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma={self.sigma}: must be above 0")

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w); neither pixels nor class change them."""
        b, h, w = len(x), *x.shape[2:]
        rows, columns = ((torch.arange(n, device=x.device, dtype=x.dtype) + 0.5) / n - 0.5 for n in (h, w))
        squared = rows[:, None].square() + columns.square()
        return torch.exp(squared / (-2 * self.sigma**2)).repeat(b, 1, 1)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """No classifier pass."""
        return Passes()

"""Control: an edge detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from xbench.classifier import Classifier, Passes
from xbench.method import METHODS, Method
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("edges")
@dataclass(frozen=True)
class Edges(Method):
    r"""Sobel gradient magnitude of the grey image: what an edge detector scores that knows no classifier (control).

    $$
    g = \sqrt{ (S * \bar x)^2 + (S^T * \bar x)^2 }, \quad S = \frac{1}{8} \begin{pmatrix} -1 & -2 & -1 \\ 0 & 0 & 0 \\ 1 & 2 & 1
    \end{pmatrix}
    $$

    Adebayo et al. 2018, https://arxiv.org/abs/1810.03292, compare saliency maps with edge detectors. The 3 x 3 kernels are
    Sobel's divided by 8, so that maps (b, h, w), >= 0, are in grey levels per pixel. Own decisions: grey is the mean of the
    channels, and borders are replicated, so that the frame of the image is no edge.
    """

    control: ClassVar[bool] = True
    label: ClassVar[str] = "Edges"

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w); the class does not change them."""
        down = torch.tensor([[-1, -2, -1], [0, 0, 0], [1, 2, 1]], device=x.device, dtype=x.dtype) / 8
        grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        dy, dx = F.conv2d(grey, torch.stack([down, down.T])[:, None]).unbind(1)
        return torch.hypot(dy, dx)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """No classifier pass."""
        return Passes()

"""nVP: the naive, deterministic version of VP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from xbench.classifier import Classifier
from xbench.method import METHODS
from xbench.methods.vp import MaskExplainer, mask_network
from xbench.ops.resize import resized
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("nvp")
@dataclass(frozen=True)
class Nvp(MaskExplainer):
    r"""VP without the variance: the network gives one score per cell, nothing is sampled and nothing regularised.

    $$
    g = \text{up}(s), \quad s = N_\theta(x), \quad \theta = \operatorname{argmin}_\theta E_{x, k} \left[ \text{KL}(p(x) \, \| \,
    p(x m_k + b (1 - m_k))) \right], \quad m_k = \text{SOFT}_k(\text{up}(s))
    $$

    N is the network, b the ``baseline``.

    The ablation of the ICLR 2022 submission "Variational Perturbations for Visual Feature Attribution". See `vp` for network,
    mask and loss; the map is the upsampled score, unbounded.

    Args:
        upsample: size m of a grid cell in pixels, one of 1, 2, 4, 8, 16; None: 8 as in the paper, 2 below 64 px.
        baseline: what replaces the removed pixels in training. The paper blurs or adds noise; the constant ``gray`` is an own
            decision: a metric that fills with another image than the training did finds a much worse map.
        eps: temperature of the SOFT top-k mask; sharper below (own decision).
        epochs, lr, batch: the training recipe (own decision; the paper has Adam and names no learning rate).
        width: channels of the hidden layers (own decision; not in the paper).
        seed: of the training: each seed is a network of its own.
    """

    label: ClassVar[str] = "nVP"

    def network(self, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Images (b, c, h, w) to scores (b, 1, h/m, w/m)."""
        return mask_network(self, shape, 1)

    def loss(self, network: nn.Module, classifier: Classifier, x: Images, rng: ImageRandom) -> Tensor:
        """The divergence of the scored field."""
        return self.divergence(classifier, x, network(x)[:, 0], rng)

    def explain(self, network: nn.Module, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """The upsampled scores."""
        return resized(network(x)[:, 0], x)

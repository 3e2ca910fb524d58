"""Attention rollout: how the layers' attention mixes the patches into the token that is classified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xbench.classifier import Classifier, Passes
from xbench.errors import NotApplicable
from xbench.method import METHODS, Method
from xbench.methods._attention import Watch, attention_map, no_attention, readout
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("attention-rollout")
@dataclass(frozen=True)
class AttentionRollout(Method):
    r"""The class token's row of the product of (A_l + I) / 2 over all layers l, A_l the attention averaged over the heads.

    $$R = \prod_{l=L}^{1} \frac{A_l + I}{2}, \quad g = \text{up}(R_{\text{class}})$$

    Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928, section 3: the half identity stands for the residual connection.
    The map is the same for every class. For vision transformers, in which every layer attends over all tokens of an image; a
    network without class token is read by the mean over all tokens' rows (own decision). The patches are the last tokens, in a
    grid of the image's proportions (own decision: as many as fit). Maps (b, h, w) in [0, 1], enlarged to the image's size by
    bilinear interpolation with ``align_corners=False`` (own decision).
    """

    label: ClassVar[str] = "Rollout"

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w), whatever the classes; NotApplicable if the classifier is no such transformer."""
        if reason := no_attention(classifier):
            raise NotApplicable(reason)
        return attention_map(torch.cat([_rolled(classifier, part) for part in x.detach().split(classifier.batch_size)]), x)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward pass."""
        return Passes(forward=1)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """Why the classifier is no such transformer, or None."""
        return no_attention(classifier)


@torch.no_grad()
def _rolled(classifier: Classifier, x: Images) -> Tensor:
    """What the classification reads of every token, (b, n)."""
    product: list[Tensor] = []

    def see(p: Tensor) -> Tensor:
        layer = (p.mean(1) + torch.eye(p.shape[-1]).to(p)) / 2
        product[:] = [layer @ product[0] if product else layer]
        return p

    with Watch(see):
        classifier(x)
    return readout(product[0], x)

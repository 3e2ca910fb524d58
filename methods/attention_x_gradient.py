"""Attention x gradient: attention weighted by what it does for the class, carried through the layers."""

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


@METHODS.register("attention-x-gradient")
@dataclass(frozen=True)
class AttentionXGradient(Method):
    r"""The class token's row of R after R <- R + E_h[ReLU(A_l * d f_c / d A_l)] R over all layers l, from R = I.

    $$
    R_0 = I, \quad R_l = R_{l-1} + E_h \left[ \text{ReLU} \left( A_l \frac{\partial f_c}{\partial A_l} \right) \right] R_{l-1},
    \quad g = \text{up}(R_{L, \text{class}})
    $$

    Chefer et al. 2021, Generic Attention-model Explainability, https://arxiv.org/abs/2103.15679, equations 5 and 6 for
    self-attention: A_l (heads, n, n) are the attention probabilities, f_c the class's logit, E_h the mean over the heads. For
    vision transformers, in which every layer attends over all tokens of an image; a network without class token is read by the
    mean over all tokens' rows (own decision). The patches are the last tokens, in a grid of the image's proportions (own
    decision: as many as fit). Maps (b, h, w), >= 0, enlarged to the image's size by bilinear interpolation with
    ``align_corners=False`` (own decision).
    """

    label: ClassVar[str] = "Attention x Gradient"

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``; NotApplicable if the classifier is no such transformer."""
        if reason := no_attention(classifier):
            raise NotApplicable(reason)
        size = classifier.batch_size
        batches = zip(x.detach().split(size), y.split(size), strict=True)
        return attention_map(torch.cat([_relevance(classifier, part, c) for part, c in batches]), x)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward pass, and one backward pass that ends at the first layer's attention."""
        return Passes(1, 1)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """Why the classifier is no such transformer, or None."""
        return no_attention(classifier)


@torch.enable_grad()
def _relevance(classifier: Classifier, x: Images, y: Labels) -> Tensor:
    """What the classification reads of every token, (b, n)."""
    layers: list[Tensor] = []

    def see(p: Tensor) -> Tensor:
        # The first layer's attention is where the graph begins: neither weights nor image require a gradient.
        layers.append(p if p.requires_grad else p.detach().requires_grad_())
        return layers[-1]

    with Watch(see):
        logits = classifier(x)
    gradients = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), layers)
    relevance = torch.eye(layers[0].shape[-1]).to(x).expand(len(x), -1, -1)
    for p, gradient in zip(layers, gradients, strict=True):
        relevance = relevance + (p.detach() * gradient).relu().mean(1) @ relevance
    return readout(relevance, x)

"""Guided backpropagation: the gradient, with what is negative cut off at every ReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from xbench.classifier import Classifier, Passes
from xbench.errors import NotApplicable
from xbench.gradients import logit_gradient
from xbench.method import METHODS, Method
from xbench.ops.rewriting import GuidedReLUs
from xbench.rng import ImageRandom
from xbench.types import Images, Labels, Maps


@METHODS.register("guided-backprop")
@dataclass(frozen=True)
class GuidedBackprop(Method):
    r"""The gradient of the class's logit in which every ReLU passes back only positive gradients; largest |.| over channels.

    $$
    g = \max_k \lvert R_k \rvert, \quad R^{\text{in}} = R^{\text{out}} \cdot [z > 0] \cdot [R^{\text{out}} > 0] \text{ at every
    ReLU}(z)
    $$

    R is what is passed back, at the logit 1 and at the image R_k; [.] is 1 where the condition holds, else 0.

    Springenberg et al. 2015, https://arxiv.org/abs/1412.6806, section 3.4. Equal to Captum's ``GuidedBackprop`` where every
    ReLU is an ``nn.ReLU``; functional ReLUs, those in place, ReLU6 and other cuts at 0 are guided here too. The largest
    absolute value over the channels is that of `gradient` (own decision). Maps (b, h, w), >= 0. Known not to depend much on
    the weights (Adebayo et al. 2018, https://arxiv.org/abs/1810.03292).

    Does not apply to a network without ReLU, where it would be the gradient, nor to one with TorchScript layers, whose ReLUs
    cannot be seen.
    """

    label: ClassVar[str] = "Guided BackProp"

    def __call__(self, classifier: Classifier, x: Images, y: Labels, rng: ImageRandom) -> Maps:
        """Maps (b, h, w) of classes ``y``; NotApplicable if the network calls no ReLU."""
        size = classifier.batch_size
        maps = []
        for part, c in zip(x.split(size), y.split(size), strict=True):
            with GuidedReLUs() as relus:
                maps.append(logit_gradient(classifier, part, c).abs().amax(1))
            if relus.met == 0:
                raise NotApplicable(f"classifier {classifier.name!r} calls no ReLU whose gradient could be guided")
        return torch.cat(maps)

    def cost(self, shape: tuple[int, int, int]) -> Passes:
        """One forward and one backward pass."""
        return Passes(1, 1)

    def not_applicable(self, classifier: Classifier) -> str | None:
        """A TorchScript layer that may hide ReLUs, or None; that there is no ReLU shows when the network runs."""
        scripted = [name for name, layer in classifier.module.named_modules() if isinstance(layer, torch.jit.ScriptModule)]
        return f"layer {scripted[0]!r} of classifier {classifier.name!r} is TorchScript" if scripted else None

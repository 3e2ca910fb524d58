"""ResNet-8: the smallest residual network of CIFAR images, with weights of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from xbench.classifier import CLASSIFIERS
from xbench.models.resnet20 import SmallResNet


@CLASSIFIERS.register("resnet8")
@dataclass(frozen=True)
class ResNet8(SmallResNet):
    """`resnet20` with one block in each group instead of three: 8 layers (He et al. 2016, https://arxiv.org/abs/1512.03385).

    Takes images (b, channels, size, size) in [0, 1], returns ``classes`` logits; widths 16, 32, 64. All else is as there: layer
    names, normalisation, activation maps, stages, and the recipe of ``xbench fit-classifier resnet8 --dataset D --out FILE``,
    which makes the file ``weights``.

    Raises XbenchError if the file is missing or damaged, or if a tensor is missing, unexpected or of another shape.
    """

    blocks: ClassVar[int] = 1

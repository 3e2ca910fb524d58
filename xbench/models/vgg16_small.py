"""VGG16 for small images, with weights of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from xbench.classifier import CLASSIFIERS
from xbench.models._small import SmallClassifier, layers_of

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@CLASSIFIERS.register("vgg16-small")
@dataclass(frozen=True)
class Vgg16Small(SmallClassifier):
    """VGG16 (Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556, configuration D) for images of about 32 px.

    Takes images (b, channels, size, size) in [0, 1], returns ``classes`` logits. As usual for CIFAR (Liu & Deng 2015,
    https://doi.org/10.1109/ACPR.2015.7486599), batch norm follows every convolution and one linear layer the last pooling;
    poolings round up, so that 28 px do, and what is left is averaged, so that larger images do (own decisions). Normalised as
    `resnet20`. ``weights`` is a file from ``xbench fit-classifier vgg16-small --dataset D --out FILE`` (recipe: see ``fit``).
    Activation maps are taken behind the last ReLU; the randomisation stages are the linear layer and the five groups of
    convolutions (own decisions).

    Raises XbenchError if the file is missing or damaged, or if a tensor is missing, unexpected or of another shape.
    """

    cam_layer: ClassVar[str] = "block5.relu3"

    def network(self) -> nn.Module:
        """The untrained network."""
        module = nn.Sequential()
        narrow: int = self.channels
        for i, widths in enumerate(WIDTHS):
            block = nn.Sequential()
            for k, wide in enumerate(widths):
                block.add_module(f"conv{k + 1}", nn.Conv2d(narrow, wide, 3, padding=1, bias=False))
                block.add_module(f"bn{k + 1}", nn.BatchNorm2d(wide))
                block.add_module(f"relu{k + 1}", nn.ReLU())
                narrow = wide
            block.add_module("pool", nn.MaxPool2d(2, ceil_mode=True))
            module.add_module(f"block{i + 1}", block)
        module.add_module("average", nn.AdaptiveAvgPool2d(1))
        module.add_module("flatten", nn.Flatten())
        module.add_module("linear", nn.Linear(narrow, self.classes))
        return module

    def stages(self, module: nn.Module) -> list[list[str]]:
        """The linear layer and the five groups of convolutions."""
        return [["linear"], *(layers_of(module, f"block{i}") for i in (5, 4, 3, 2, 1))]

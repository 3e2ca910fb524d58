"""ResNet-20: the small residual network of CIFAR images, with weights of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from xbench.classifier import CLASSIFIERS
from xbench.models._small import SmallClassifier, layers_of

WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class SmallResNet(SmallClassifier):
    """Base of the CIFAR residual networks of 6 ``blocks`` + 2 layers."""

    blocks: ClassVar[int]

    def network(self) -> nn.Module:
        """The untrained network."""
        return ResNet(self.classes, self.channels, self.blocks)

    def stages(self, module: nn.Module) -> list[list[str]]:
        """The linear layer, the three groups of blocks, the first convolution."""
        return [["linear"], *(layers_of(module, f"layer{i}") for i in (3, 2, 1)), ["bn1", "conv1"]]

    @property
    def cam_layer(self) -> str:
        """The last block's output behind its ReLU."""
        return f"layer3.{self.blocks - 1}.relu2"


@CLASSIFIERS.register("resnet20")
@dataclass(frozen=True)
class ResNet20(SmallResNet):
    """The CIFAR ResNet-20 of He et al. 2016 (https://arxiv.org/abs/1512.03385, section 4.2) with weights that you give.

    Takes images (b, channels, size, size) in [0, 1], returns ``classes`` logits. Shortcuts are of the paper's option A:
    subsampled, with zero channels added. Layer names and the normalisation by ImageNet's mean and standard deviation (for grey
    images their means over the channels) are those of https://github.com/akamaster/pytorch_resnet_cifar10. ``weights`` is a
    safetensors file of such a network's state dict, of yours or from ``xbench fit-classifier resnet20 --dataset D --out FILE``
    (recipe: see ``fit``). ``label_space`` says what the logits mean; a dataset must declare the same. Activation maps are taken
    from the last block's output behind its ReLU; the randomisation stages are the linear layer, the three groups of blocks, the
    first convolution (own decisions).

    Raises XbenchError if the file is missing or damaged, or if a tensor is missing, unexpected or of another shape.
    """

    blocks: ClassVar[int] = 3


class ResNet(nn.Module):
    """Normalised images (b, channels, h, w) to logits (b, classes), with ``blocks`` blocks in each of three groups."""

    def __init__(self, classes: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        self.layer1 = _group(WIDTHS[0], WIDTHS[0], blocks)
        self.layer2 = _group(WIDTHS[0], WIDTHS[1], blocks)
        self.layer3 = _group(WIDTHS[1], WIDTHS[2], blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(WIDTHS[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


class Block(nn.Module):
    """Two convolutions (b, narrow, h, w) to (b, wide, h', w') and a shortcut; a wider block halves height and width."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.stride = 1 if narrow == wide else 2
        self.padding = (wide - narrow) // 2
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The rectified sum of the convolutions' output and the shortcut."""
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        x = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        rectified: Tensor = self.relu2(x + shortcut)
        return rectified


def _group(narrow: int, wide: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Block(narrow, wide), *(Block(wide, wide) for _ in range(blocks - 1)))

"""ResNet-20: the small residual network of CIFAR images, with weights of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xbench.classifier import CLASSIFIERS, Classifier, ClassifierEntry
from xbench.errors import XbenchError
from xbench.models._files import fitting

BLOCKS = 3
WIDTHS = (16, 32, 64)


@CLASSIFIERS.register("resnet20")
@dataclass(frozen=True)
class ResNet20(ClassifierEntry):
    """The CIFAR ResNet-20 of He et al. 2016 (https://arxiv.org/abs/1512.03385, section 4.2) with weights that you give.

    Takes images (b, 3, 32, 32) in [0, 1], returns ``classes`` logits. Shortcuts are of the paper's option A: subsampled, with
    zero channels added. Layer names and the normalisation by ImageNet's mean and standard deviation are those of
    https://github.com/akamaster/pytorch_resnet_cifar10. ``weights`` is a safetensors file of such a network's state dict.
    ``label_space`` says what the logits mean; a dataset must declare the same. Activation maps are taken from the last block's
    output behind its ReLU; the randomisation stages are the linear layer, the three groups of blocks, the first convolution
    (own decisions).

    Raises XbenchError if the file is missing or damaged, or if a tensor is missing, unexpected or of another shape.
    """

    weights: str | None = None
    classes: int = 10
    label_space: str = "cifar-10"

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"classes={self.classes}: must be at least 1")
        if not self.label_space:
            raise ValueError("label_space='': must name what the logits mean, for instance 'cifar-10'")

    def load(self) -> Classifier:
        """The classifier with the weights of the file, on the CPU."""
        if self.weights is None:
            raise XbenchError("classifier 'resnet20' needs a file of weights: resnet20(weights=\"FILE.safetensors\")")
        path = Path(self.weights).expanduser()
        with torch.device("meta"):  # nothing is drawn: loading leaves the global random state alone
            module = ResNet(self.classes)
        module.load_state_dict(_state(path, module), assign=True)
        stages = [["linear"], *(_layers(module, f"layer{i}") for i in (3, 2, 1)), ["bn1", "conv1"]]
        return Classifier(
            module,
            # Without its folder the file has a readable name on boards and the same one on every machine.
            name=self.replace(weights=path.name).spec,
            shape=(3, 32, 32),
            classes=self.classes,
            label_space=self.label_space,
            mean=[0.485, 0.456, 0.406],
            std=[0.229, 0.224, 0.225],
            cam_layer=f"layer3.{BLOCKS - 1}.relu2",
            stages=stages,
        )


class ResNet(nn.Module):
    """Normalised images (b, 3, h, w) to logits (b, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        self.layer1 = _group(WIDTHS[0], WIDTHS[0])
        self.layer2 = _group(WIDTHS[0], WIDTHS[1])
        self.layer3 = _group(WIDTHS[1], WIDTHS[2])
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


def _group(narrow: int, wide: int) -> nn.Sequential:
    return nn.Sequential(Block(narrow, wide), *(Block(wide, wide) for _ in range(BLOCKS - 1)))


def _layers(module: nn.Module, group: str) -> list[str]:
    """The layers with parameters of their own in a group, from the output down to the input."""
    layers = dict(module.named_modules())
    return [name for name in reversed(layers) if name.startswith(f"{group}.") and [*layers[name].parameters(recurse=False)]]


def _state(path: Path, module: nn.Module) -> dict[str, Tensor]:
    """The state dict in a file, in float32; XbenchError unless it is that of ``module``."""
    try:
        state = safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise XbenchError(f"weights file {path} does not exist") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise XbenchError(f"weights file {path} is damaged or not in the safetensors format ({error})") from error
    try:
        return fitting(state, module)
    except XbenchError as error:
        raise XbenchError(f"weights file {path} does not fit resnet20: {error}") from error

"""Networks for the tests of the gradient methods: a linear one, and the same ReLU network written in every way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xbench import CLASSIFIERS, DATASETS, METHODS, Classifier, ImageRandom


def explain(spec: str, classifier: Classifier, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
    return METHODS.make(spec)(classifier, x, y, ImageRandom(seed, [f"image-{i}" for i in range(len(x))]))


def classifier_of(module: nn.Module, shape: tuple[int, int, int], classes: int, cam_layer: str | None = None) -> Classifier:
    return Classifier(
        module,
        name="made",
        shape=shape,
        classes=classes,
        label_space="made",
        mean=[0.3] * shape[0],
        std=[0.5] * shape[0],
        cam_layer=cam_layer,
        stages=[],
    )


def linear(shape: tuple[int, int, int], classes: int = 3) -> tuple[Classifier, Tensor]:
    """A linear classifier and the derivatives (classes, c, h, w) of its logits by the pixels."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))
    return classifier_of(module, shape, classes), module[1].weight.detach().view(classes, *shape) / 0.5


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def discarded(x: Tensor) -> Tensor:
    F.relu_(x)
    return x


def viewed(x: Tensor) -> Tensor:
    x[:].relu_()
    return x


RELUS: dict[str, Callable[[], nn.Module]] = {
    "module": nn.ReLU,
    "module in place": lambda: nn.ReLU(inplace=True),
    "F.relu": lambda: Call(F.relu),
    "F.relu in place": lambda: Call(lambda x: F.relu(x, True)),
    "F.relu by keyword": lambda: Call(lambda x: F.relu(input=x, inplace=True)),
    "torch.relu": lambda: Call(torch.relu),
    "Tensor.relu": lambda: Call(lambda x: x.relu()),
    "Tensor.relu_": lambda: Call(lambda x: x.relu_()),
    "relu_, its result discarded": lambda: Call(discarded),
    "relu_ on a view": lambda: Call(viewed),
    "clamp": lambda: Call(lambda x: x.clamp(min=0)),
    "ReLU6": nn.ReLU6,  # nothing here reaches 6
    "hardtanh": lambda: Call(lambda x: F.hardtanh(x, 0.0, 50.0, inplace=True)),
}


class Small(nn.Module):
    """Two convolutions and two linear layers with the given ReLU in between; the same weights whatever the ReLU."""

    def __init__(self, relu: Callable[[], nn.Module], channels: int = 1, pool: nn.Module | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv1 = nn.Conv2d(channels, 6, 3, padding=1)
            self.relu1 = relu()
            self.pool = nn.MaxPool2d(2) if pool is None else pool
            self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
            self.relu2 = relu()
            self.shrink = nn.AdaptiveAvgPool2d(4)
            self.fc1 = nn.Linear(8 * 16, 12)
            self.relu3 = relu()
            self.fc2 = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.conv2(self.pool(self.relu1(self.conv1(x)))))
        logits: Tensor = self.fc2(self.relu3(self.fc1(self.shrink(x).flatten(1))))
        return logits


def relu_classifier(kind: str, shape: tuple[int, int, int] = (1, 28, 28), pool: nn.Module | None = None) -> Classifier:
    """`Small` with the ReLUs of a kind; ``reused``: one module called three times."""
    one = nn.ReLU()
    relu = (lambda: one) if kind == "reused" else RELUS[kind]
    return classifier_of(Small(relu, shape[0], pool), shape, 4, cam_layer="conv2")


def digits(count: int) -> tuple[Classifier, Tensor, Tensor]:
    """The shipped classifier, digits and their predicted classes."""
    classifier = CLASSIFIERS.make("mnist-cnn").load()
    subset = DATASETS.make("mnist").load()
    x, _, _ = subset.read(subset.ids[:count])
    return classifier, x, classifier.probabilities(x).argmax(1)

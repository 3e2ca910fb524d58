"""Networks as a user might write them, made by functions that the tests name by "own_models:function"."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Grey(nn.Module):
    """A convolutional network of grey images with functional ReLUs, a pool and two linear layers."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.hidden = nn.Linear(6 * 49, 8)
        self.unused = nn.Linear(2, 2)
        self.out = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.max_pool2d(F.relu(self.norm(self.first(x))), 2))
        return self.out(F.relu(self.hidden(x.flatten(1))))


def grey() -> nn.Module:
    return Grey()


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))


def image_to_image() -> nn.Module:
    return nn.Conv2d(3, 3, 1)


def fails() -> nn.Module:
    raise FileNotFoundError("no weights here")


def number() -> int:
    return 3


def attention_pooled() -> nn.Module:
    """Three convolutions, then attention over the places."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(*(nn.Conv2d(c, 8, 3, stride=2, padding=1) for c in (3, 8, 8)))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.out = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            z = self.body(x).flatten(2).mT
            return self.out(self.attention(z, z, z)[0].mean(1))

    return Pooled()


def state(seed: int = 1, classes: int = 3) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Grey(classes).state_dict()

"""The conformance checks that every entry must pass; public, so that other packages run them on their own entries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xbench.classifier import Classifier


def tiny_classifier(shape: tuple[int, int, int] = (1, 28, 28), classes: int = 4, seed: int = 0) -> Classifier:
    """A small random convolutional network for images of ``shape`` (c, h, w), the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential()
        module.add_module("conv1", nn.Conv2d(shape[0], 6, 3, stride=2, padding=1))
        module.add_module("relu1", nn.ReLU())
        module.add_module("conv2", nn.Conv2d(6, 8, 3, stride=2, padding=1))
        module.add_module("relu2", nn.ReLU())
        module.add_module("pool", nn.AdaptiveAvgPool2d(4))
        module.add_module("flatten", nn.Flatten())
        module.add_module("fc", nn.Linear(8 * 16, classes))
    c = shape[0]
    return Classifier(
        module,
        name="tiny",
        shape=shape,
        classes=classes,
        label_space=f"tiny-{classes}",
        mean=[0.5] * c,
        std=[0.25] * c,
        cam_layer="conv2",
        stages=[["fc"], ["conv2"], ["conv1"]],
    )


def tiny_images(count: int, shape: tuple[int, int, int] = (1, 28, 28), seed: int = 0) -> Tensor:
    """Smooth random images (count, c, h, w) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, shape[0], 7, 7), generator=generator)
    return nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear", align_corners=False)

"""A classifier and images that are small enough to check an entry on within a second."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xbench.classifier import Classifier
from xbench.subset import Batch
from xbench.types import Images


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


def tiny_images(count: int, shape: tuple[int, int, int] = (1, 28, 28), seed: int = 0) -> Images:
    """Smooth random images (count, c, h, w) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, shape[0], 7, 7), generator=generator)
    return nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear", align_corners=False)


def tiny_batch(count: int, classifier: Classifier, seed: int = 0) -> Batch:
    """Such images for a classifier, on its device and in its precision, with labels and two boxes each.

    The class explained is the predicted one; the labels run through all classes.
    """
    x = tiny_images(count, classifier.shape, seed).to(classifier.mean)  # type: ignore[arg-type]
    h, w = classifier.shape[1:]
    box = torch.tensor([[w // 4, h // 4, 3 * w // 4, 3 * h // 4], [0, 0, w // 2, h // 3]], device=x.device).float()
    boxes: list[Tensor] = [box.clone() for _ in range(count)]
    return Batch(
        ids=[f"tiny-{seed}-{i}" for i in range(count)],
        x=x,
        label=torch.arange(count, device=x.device) % classifier.classes,
        target=classifier.probabilities(x).argmax(1),
        boxes=boxes,
    )

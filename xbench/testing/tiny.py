"""Classifiers and images that are small enough to check an entry on within a second."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xbench.classifier import Classifier
from xbench.subset import Batch
from xbench.types import Images, Maps


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


def tiny_transformer(shape: tuple[int, int, int] = (1, 28, 28), classes: int = 4, seed: int = 0) -> Classifier:
    """A small random vision transformer for images of ``shape`` (c, h, w): two layers, 4 x 4 patches and a class token."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _Transformer(shape, classes)
    layers = [name for name, layer in module.named_modules() if name and [*layer.parameters(recurse=False)]]
    c = shape[0]
    return Classifier(
        module,
        name="tiny-transformer",
        shape=shape,
        classes=classes,
        label_space=f"tiny-{classes}",
        mean=[0.5] * c,
        std=[0.25] * c,
        cam_layer=None,
        stages=[["head"], [name for name in reversed(layers) if name != "head"], [""]],
    )


class _Transformer(nn.Module):
    """Normalised images (b, c, h, w) to logits (b, classes)."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int = 12) -> None:
        super().__init__()
        patch = shape[1] // 4, shape[2] // 4
        self.embedding = nn.Conv2d(shape[0], width, patch, stride=patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attentions = nn.ModuleList(nn.MultiheadAttention(width, 3, batch_first=True) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embedding(x).flatten(2).mT
        z = torch.cat([self.token.expand(len(x), -1, -1), z], 1) + self.position
        for i, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            n = self.norms[2 * i](z)
            z = z + attention(n, n, n, need_weights=False)[0]
            z = z + mlp(self.norms[2 * i + 1](z))
        logits: Tensor = self.head(z[:, 0])
        return logits


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


def distance(maps: Maps, reference: Maps) -> float:
    """The largest difference as a share of the reference map's range; rounding of a constant map does not count."""
    maps, reference = maps.detach(), reference.detach()
    low, high = reference.flatten(1).aminmax(dim=1)
    rounding = 8 * torch.finfo(maps.dtype).eps * reference.flatten(1).abs().amax(1)
    difference = ((maps - reference).abs().flatten(1).amax(1) - rounding).clamp_min(0)
    return float((difference / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)).max())

"""What the tests of the metrics on given maps share: classifiers, maps, and the order of the pixels from its definition."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from xbench import Classifier, ImageRandom
from xbench.subset import Batch
from xbench.testing import tiny_classifier


def sharp_classifier(shape: tuple[int, int, int] = (1, 28, 28)) -> Classifier:
    """The tiny classifier with larger logits, so that removing pixels matters."""
    classifier = tiny_classifier(shape)
    with torch.no_grad():
        classifier.module.fc.weight.mul_(30)
    return classifier


def linear(weight: Tensor, bias: float = 0.0, mean: float = 0.0, std: float = 1.0) -> Classifier:
    """Two classes: logit 0, and bias + the sum of weight (c, h, w) times the normalised pixels."""
    layer = nn.Linear(weight.numel(), 2, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros_like(weight).flatten(), weight.flatten()]))
        layer.bias.copy_(torch.tensor([0.0, bias]))
    classifier = Classifier(
        nn.Sequential(nn.Flatten(), layer),
        name="linear",
        shape=tuple(weight.shape),
        classes=2,
        label_space="two",
        mean=[mean] * len(weight),
        std=[std] * len(weight),
        cam_layer=None,
        stages=[],
    )
    return classifier.to(weight.dtype)


def of_class(x: Tensor, label: int = 1) -> Batch:
    """Images that are all of one class."""
    labels = torch.full((len(x),), label)
    return Batch([f"image-{i}" for i in range(len(x))], x, labels, labels)


def maps_of(batch: Batch, seed: int = 0) -> Tensor:
    """Standard normal maps."""
    shape = (len(batch), *batch.x.shape[2:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(batch.x)


def part(batch: Batch, index: list[int]) -> Batch:
    """Some images of a batch."""
    boxes = None if batch.boxes is None else [batch.boxes[i] for i in index]
    ids = [batch.ids[i] for i in index]
    return dataclasses.replace(
        batch, ids=ids, x=batch.x[index], label=batch.label[index], target=batch.target[index], boxes=boxes
    )


def in_order(values: Tensor, image: str, seed: int) -> list[int]:
    """The pixels of one image's map (h, w), the most important first; of equal ones the one with the smaller draw."""
    flat = values.flatten().tolist()
    ties = ImageRandom(seed, [image]).uniform("ties", (len(flat),))[0].tolist()
    return sorted(range(len(flat)), key=lambda pixel: (-flat[pixel], ties[pixel]))

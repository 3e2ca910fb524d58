"""What the comparisons are made of: the images, the two forms of the classifier, and two sides of the same work."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from xbench import CLASSIFIERS, METHODS, METRICS, Batch, Classifier, Explainer, ImageRandom
from xbench.ops.blur import gaussian_blur

MODELS = {28: "mnist-cnn", 224: "efficientnet-lite"}
STEPS = 28
DRAWS = 10
MASKS = 64
SEGMENTS = 30


class Plain(nn.Module):
    """Images in [0, 1] to logits in float32 and PyTorch's default layout: what a user would give the peers."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.module = classifier.module.to(memory_format=torch.contiguous_format)
        self.register_buffer("mean", classifier.mean)
        self.register_buffer("std", classifier.std)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, k)."""
        return self.module((x - self.mean) / self.std)


class Bf16(nn.Module):
    """A network under automatic mixed precision, with logits in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, k)."""
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.inner(x).float()


def ours(spec: str, precision: str) -> Classifier:
    """Our form of a classifier in "fp32" or "bf16"."""
    made = CLASSIFIERS.make(spec).load()
    if precision == "fp32":
        return made
    return Classifier(
        Bf16(made.module),
        name=made.name,
        shape=made.shape,
        classes=made.classes,
        label_space=made.label_space,
        mean=made.mean.flatten().tolist(),
        std=made.std.flatten().tolist(),
        cam_layer=f"inner.{made.cam_layer}",
        stages=[[f"inner.{name}" for name in stage] for stage in made.stages],
    )


@dataclasses.dataclass(frozen=True)
class Subject:
    """Images and gradient maps without ties, our classifier in one precision, and the peers' network."""

    batch: Batch
    maps: Tensor
    classifier: Classifier
    network: nn.Module

    def metric(self, spec: str) -> Callable[[], object]:
        """Our metric on the maps; where it explains again, by the gradient."""
        metric, explainer = METRICS.make(spec), Explainer(METHODS.make("gradient"), self.classifier)
        return lambda: metric(explainer, self.batch, self.maps)

    def method(self, spec: str) -> Callable[[], object]:
        """Our method on the images."""
        method = METHODS.make(spec)
        return lambda: method(self.classifier, self.batch.x, self.batch.target, ImageRandom(0, self.batch.ids))

    def each(self, of: Callable[[Tensor, int, Tensor], object]) -> Callable[[], object]:
        """A peer that takes one image (1, c, h, w), its class and its map (1, h, w) at a time."""
        x, y = self.batch.x, self.batch.target.tolist()
        return lambda: [of(x[i : i + 1], y[i], self.maps[i : i + 1]) for i in range(len(x))]


def subject(size: int, images: int, precision: str) -> Subject:
    """Smooth random images of a size: what they show is nothing to how long anything takes."""
    classifier = ours(MODELS[size], precision)
    generator = torch.Generator().manual_seed(0)
    x = gaussian_blur(torch.rand(images, *classifier.shape, generator=generator), size / 28)
    x = (x - x.amin()) / (x.amax() - x.amin())
    target = classifier.probabilities(x).argmax(1)
    maps = torch.rand(images, size, size, generator=generator)
    batch = Batch(ids=[str(i) for i in range(images)], x=x, label=target, target=target)
    return Subject(batch, maps, classifier, Plain(CLASSIFIERS.make(MODELS[size]).load()).eval())


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same work by us and by a peer, and by how much the peer's is divided because it does more of it."""

    work: str
    peer: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    more: float = 1


@dataclasses.dataclass(frozen=True)
class Measured:
    """Medians over the repeats, each with the smallest and the largest."""

    seconds: Sequence[float]
    theirs: Sequence[float]
    ratios: Sequence[float]
    overheads: Sequence[float]

    def cells(self) -> list[str]:
        """The columns of the table."""
        seconds = [f"{statistics.median(values):.2f}" for values in (self.seconds, self.theirs)]
        return [*seconds, spread(self.ratios, 1), spread(self.overheads, 2)]


def spread(values: Sequence[float], digits: int) -> str:
    """Median, smallest and largest."""
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} [{low}, {high}]"


def measured(pair: Pair, of: Subject, repeats: int) -> Measured:
    """Ours, theirs and the bare passes of ours, in alternation, after one of each that is not counted."""
    found: list[tuple[float, float, float]] = []
    for repeat in range(repeats + 1):
        before = of.classifier.passes.copy()
        mine = seconds(pair.ours)
        passes = of.classifier.passes - before
        bare = seconds(lambda passes=passes: bare_passes(of, round(passes.forward), round(passes.backward)))
        other = seconds(pair.theirs) / pair.more
        if repeat > 0:
            found.append((mine, other, bare))
    mine, other, bare = zip(*found, strict=True)
    ratios = [b / a for a, b in zip(mine, other, strict=True)]
    return Measured(mine, other, ratios, [a / b for a, b in zip(mine, bare, strict=True)])


def bare_passes(of: Subject, forward: int, backward: int) -> None:
    """So many passes of the network alone, in full batches."""
    size = of.classifier.batch_size
    x = of.batch.x.repeat(-(-size // len(of.batch)), 1, 1, 1)[:size]
    x = ((x - of.classifier.mean) / of.classifier.std).contiguous(memory_format=torch.channels_last)
    for start in range(0, forward, size):
        part = x[: min(size, forward - start)]
        if start < backward:
            part = part.detach().requires_grad_()
            of.classifier.module(part).sum().backward()
        else:
            with torch.no_grad():
                of.classifier.module(part)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

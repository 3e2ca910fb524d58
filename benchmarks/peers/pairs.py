"""What the comparisons are made of: the images, our classifier and the peers', and two sides of the same work."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from xbench import CLASSIFIERS, METHODS, METRICS, Batch, Classifier, Explainer, ImageRandom
from xbench.form import make_form
from xbench.ops.blur import gaussian_blur
from xbench.run.form import fastest
from xbench.types import Precision

MODELS = {28: "mnist-cnn", 224: "efficientnet-lite"}
STEPS = 28
DRAWS = 10
MASKS = 64
SEGMENTS = 30
LONG = 1e8
"""Seconds of passes of a run for which every form pays back what it takes to make it."""


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


@dataclasses.dataclass(frozen=True)
class Subject:
    """Images and maps without ties, our classifier in its fastest form and the seconds to make it, and the peers' network."""

    batch: Batch
    maps: Tensor
    classifier: Classifier
    making: float
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


def subject(size: int, images: int, precision: Precision, *, form: bool = True) -> Subject:
    """Smooth random images of a size: what they show is nothing to how long anything takes; ours as it is without ``form``."""
    classifier = CLASSIFIERS.make(MODELS[size]).load()
    classifier.precision = precision
    making = 0.0
    if form:
        choice = fastest(classifier, LONG, compiling=True)
        start = time.perf_counter()
        classifier.form = make_form(classifier, choice.name, choice.batch_size)
        making = time.perf_counter() - start
    generator = torch.Generator().manual_seed(0)
    x = gaussian_blur(torch.rand(images, *classifier.shape, generator=generator), size / 28)
    x = (x - x.amin()) / (x.amax() - x.amin())
    target = classifier.probabilities(x).argmax(1)
    maps = torch.rand(images, size, size, generator=generator)
    batch = Batch(ids=[str(i) for i in range(images)], x=x, label=target, target=target)
    return Subject(batch, maps, classifier, making, Plain(CLASSIFIERS.make(MODELS[size]).load()).eval())


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same work by us and by a peer, and by how much the peer's is divided because it does more of it."""

    work: str
    peer: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    more: float = 1


def spread(values: Sequence[float], digits: int) -> str:
    """Median, smallest and largest."""
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} [{low}, {high}]"


def ours(pair: Pair, of: Subject) -> tuple[float, float]:
    """Seconds of our side, and of the bare passes that it makes."""
    before = of.classifier.passes.copy()
    mine = seconds(pair.ours)
    passes = of.classifier.passes - before
    return mine, seconds(lambda: bare_passes(of, round(passes.forward), round(passes.backward)))


def bare_passes(of: Subject, forward: int, backward: int) -> None:
    """So many passes of the network alone, in full batches: in its form where no backward pass follows."""
    classifier = of.classifier
    assert classifier.form is not None
    for n in batches(forward - backward, classifier.form.batch_size):
        with torch.no_grad():
            classifier.form(repeated(of.batch.x, n))
    for n in batches(backward, classifier.batch_size):
        x = ((repeated(of.batch.x, n) - classifier.mean) / classifier.std).contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        torch.autograd.grad(classifier.module(x).sum(), x)


def batches(count: int, size: int) -> list[int]:
    """How many images every batch has."""
    return [min(size, count - start) for start in range(0, count, size)]


def repeated(x: Tensor, n: int) -> Tensor:
    """So many images, the given ones again and again."""
    return x[torch.arange(n) % len(x)]


def seconds(work: Callable[[], object]) -> float:
    """How long it takes: of a single thread the time that it computes, which other programs stretch less."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start

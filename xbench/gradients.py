"""What the methods that follow the class's logit share: its gradient, the baselines of a path, means over random images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from xbench.classifier import Classifier
from xbench.rng import ImageRandom
from xbench.types import Images, Labels

Baseline = Literal["zero", "gray"]
"""Where a path to the image starts: ``zero`` is a black image, ``gray`` the classifier's mean pixel."""
Sample = Callable[[Images, ImageRandom, int], tuple[Images, Images]]
"""(images, their draws, number of the sample) -> where to take the gradient, and what its term needs beside it."""


def baseline_image(name: Baseline, classifier: Classifier, x: Images) -> Images:
    """The baseline of images ``x`` (b, c, h, w), in their shape."""
    pixel = classifier.gray if name == "gray" else torch.zeros_like(classifier.gray)
    return pixel.to(x).expand_as(x)


def logit_gradient(classifier: Classifier, x: Images, y: Labels) -> Images:
    """The derivative (b, c, h, w) of each image's logit of its class ``y`` (b,), in one batch, also under ``no_grad``."""
    image = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = classifier(image).gather(1, y[:, None]).sum()
    gradient: Tensor = torch.autograd.grad(logits, image)[0]
    return gradient


def mean_over_samples(
    classifier: Classifier,
    x: Images,
    y: Labels,
    rng: ImageRandom,
    samples: int,
    sample: Sample,
    term: Callable[[Images, Images], Images],
) -> Images:
    """The mean (b, c, h, w) over ``samples`` of term(gradient of the logit at the sample, what ``sample`` gave beside it).

    Images and samples share batches of at most ``classifier.batch_size``, and no more samples exist at a time.
    """
    size = classifier.batch_size
    means = []
    for start in range(0, len(x), size):
        part, c = x[start : start + size].detach(), y[start : start + size]
        draws = ImageRandom(rng.seed, rng.ids[start : start + size])
        total = torch.zeros_like(part)
        for numbers in torch.arange(samples).split(size // len(part)):
            made = [sample(part, draws, number) for number in numbers.tolist()]
            points, others = (torch.cat(tensors) for tensors in zip(*made, strict=True))
            terms = term(logit_gradient(classifier, points, c.repeat(len(made))), others)
            total += terms.view(len(made), *part.shape).sum(0)
        means.append(total / samples)
    return torch.cat(means)

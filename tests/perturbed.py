"""What the tests of the perturbation methods share: names, a classifier whose maps are known, and the batch check."""

from __future__ import annotations

import torch
from torch import nn

from xbench import Classifier, ImageRandom
from xbench.testing import tiny_classifier, tiny_images

SHAPES = [(1, 28, 28), (3, 32, 32)]


def ids(count):
    return [f"image-{i}" for i in range(count)]


class Affine(nn.Module):
    """Two classes with softmax probabilities q and 1 - q, q affine in the normalised image."""

    def __init__(self, weight, bias):
        super().__init__()
        self.register_buffer("weight", weight)
        self.bias = bias

    def forward(self, z):
        q = self.bias + (z * self.weight).sum((1, 2, 3))
        return torch.stack([q.log(), (1 - q).log()], 1)


def affine(weight, bias, mean=0.5):
    return Classifier(
        Affine(weight, bias),
        name="affine",
        shape=tuple(weight.shape),
        classes=2,
        label_space="two",
        mean=[mean] * len(weight),
        std=[1.0] * len(weight),
        cam_layer=None,
        stages=[],
    )


def assert_batch_invariant(method, x):
    """Maps do not change with batch size or repetition, and the classifier is left as it was found."""
    classifier = tiny_classifier(tuple(x.shape[1:]))
    y = torch.arange(len(x)) % 4
    names = ids(len(x))
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    whole = method(classifier, x, y, ImageRandom(0, names))
    assert torch.equal(whole, method(classifier, x, y, ImageRandom(0, names)))
    for size in (1, 7):
        for start in range(0, 21, size):
            part = slice(start, start + size)
            maps = method(classifier, x[part], y[part], ImageRandom(0, names[part]))
            assert torch.allclose(maps, whole[part], atol=1e-5)
    classifier.batch_size = 3
    assert torch.allclose(method(classifier, x[:5], y[:5], ImageRandom(0, names[:5])), whole[:5], atol=1e-5)
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert not classifier.training
    assert not any(module._forward_hooks or module._backward_hooks for module in classifier.modules())


def assert_iterative_batch_invariant(method, shape, count=5):
    """In float64 the maps of an optimiser do not change with batch size or repetition, and the classifier is left as found."""
    classifier, x = tiny_classifier(shape).double(), tiny_images(count, shape).double()
    y, names = torch.arange(count) % 4, ids(count)
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    whole = method(classifier, x, y, ImageRandom(0, names))
    assert (whole.flatten(1).amax(1) > whole.flatten(1).amin(1)).all()
    with torch.no_grad():
        assert torch.equal(whole, method(classifier, x, y, ImageRandom(0, names)))
    for size in (1, 3):
        classifier.batch_size = size
        maps = [
            method(classifier, x[i : i + size], y[i : i + size], ImageRandom(0, names[i : i + size])) for i in range(0, 3, size)
        ]
        assert torch.allclose(torch.cat(maps), whole[:3], rtol=0, atol=1e-6 * whole.abs().max())
    assert not whole.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert not classifier.training
    assert not any(p.requires_grad or p.grad is not None for p in classifier.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in classifier.modules())

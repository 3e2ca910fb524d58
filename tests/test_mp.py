"""MP against a slow optimisation of one image at a time, and on classifiers whose best mask is known."""

from __future__ import annotations

import math

import pytest
import torch
from perturbed import SHAPES, affine, ids

from xbench import METHODS, ImageRandom, XbenchError
from xbench.methods.mp import MeaningfulPerturbation, shifted
from xbench.ops.blur import gaussian_blur
from xbench.testing import tiny_classifier, tiny_images


def slow_mp(classifier, image, target, name, cell, iterations, jitter):
    """One image, with Adam and the loss written out (Kingma and Ba 2015, algorithm 1)."""
    _, h, w = image.shape
    rows, columns = h // cell, w // cell
    rng = ImageRandom(0, [name])
    mask = rng.uniform("mask", (1, rows, columns))[0, 0].to(image)
    shifts = rng.integers("shift", jitter + 1, (iterations, 2))[0].tolist()
    background = gaussian_blur(image[None], 10 * h / 224)[0]
    first, second = torch.zeros_like(mask), torch.zeros_like(mask)
    for step, (down, right) in enumerate(shifts, start=1):
        mask.requires_grad_()
        large = mask.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
        moved = [
            torch.stack(
                [torch.stack([i[:, min(r + down, h - 1), min(k + right, w - 1)] for k in range(w)], 1) for r in range(h)], 1
            )
            if jitter
            else i
            for i in (image, background)
        ]
        p = classifier((large * moved[0] + (1 - large) * moved[1])[None]).softmax(1)[0, target]
        total_variation = sum(
            (abs(mask[r, k] - mask[r + dr, k + dk]) ** 3)
            for r in range(rows)
            for k in range(columns)
            for dr, dk in ((1, 0), (0, 1))
            if r + dr < rows and k + dk < columns
        )
        loss = 1e-4 * (1 - mask).abs().sum() + 1e-2 * total_variation + p
        (gradient,) = torch.autograd.grad(loss, mask)
        with torch.no_grad():
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            rate = 0.1 * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            mask = (mask - rate * first / (second.sqrt() + 1e-8 * math.sqrt(1 - 0.999**step))).clamp(0, 1)
    return 1 - mask.repeat_interleave(cell, 0).repeat_interleave(cell, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("parameters", "cell", "jitter"), [("upsample=4", 4, 0), ("upsample=4, jitter=2", 4, 2)])
def test_equals_one_image_at_a_time(parameters, cell, jitter, shape):
    method = METHODS.make(f"mp(iterations=6, {parameters})")
    classifier, x, y = tiny_classifier(shape).double(), tiny_images(2, shape).double(), torch.tensor([1, 3])
    maps = method(classifier, x, y, ImageRandom(0, ids(2)))
    for i in range(2):
        expected = slow_mp(classifier, x[i], y[i], ids(2)[i], cell, 6, jitter)
        assert torch.allclose(maps[i], expected, atol=1e-8)


def test_deletes_nothing_where_the_probability_does_not_change():
    maps = METHODS.make("mp")(
        affine(torch.zeros(1, 28, 28), 0.3, mean=0.0), tiny_images(3), torch.tensor([0, 1, 0]), ImageRandom(0, ids(3))
    )
    assert maps.abs().max() < 1e-3


def test_deletes_what_the_probability_reads():
    # q = 0.05 + 0.9 * mean of the upper left quadrant, filled with black: deleting it costs least.
    weight = torch.zeros(1, 28, 28)
    weight[:, :14, :14] = 0.9 / 14**2
    x = 0.5 + 0.5 * tiny_images(2)
    maps = MeaningfulPerturbation(fill="zero")(affine(weight, 0.05, mean=0.0), x, torch.tensor([0, 0]), ImageRandom(0, ids(2)))
    for read, rest in zip(maps[:, :10, :10], maps[:, 18:, 18:], strict=True):
        assert read.min() > 0.8
        assert rest.max() < 0.2
    # The other class gains from the deletion, so nothing is deleted.
    other = MeaningfulPerturbation(fill="zero")(affine(weight, 0.05, mean=0.0), x, torch.tensor([1, 1]), ImageRandom(0, ids(2)))
    assert other[:, :14, :14].max() < 0.1


def test_shifted_replicates_the_border():
    x = torch.arange(12.0).view(1, 1, 3, 4).repeat(2, 2, 1, 1)
    moved = shifted(x, torch.tensor([[1, 2], [0, 0]]))
    assert torch.equal(moved[0, 1], torch.tensor([[6.0, 7, 7, 7], [10, 11, 11, 11], [10, 11, 11, 11]]))
    assert torch.equal(moved[1], x[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_size_and_repetition_change_nothing(shape):
    method = METHODS.make("mp(iterations=20, jitter=1)")
    classifier, x = tiny_classifier(shape).double(), tiny_images(64, shape).double()
    y = torch.arange(64) % 4
    names = ids(64)
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    whole = method(classifier, x, y, ImageRandom(0, names))
    assert torch.equal(whole, method(classifier, x, y, ImageRandom(0, names)))
    for size in (1, 7):
        for start in range(0, 21, size):
            part = slice(start, start + size)
            maps = method(classifier, x[part], y[part], ImageRandom(0, names[part]))
            assert torch.allclose(maps, whole[part], atol=1e-6)
    classifier.batch_size = 3
    assert torch.allclose(method(classifier, x[:5], y[:5], ImageRandom(0, names[:5])), whole[:5], atol=1e-6)
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert not classifier.training
    assert not any(p.requires_grad or p.grad is not None for p in classifier.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in classifier.modules())


@pytest.mark.parametrize(
    ("shape", "spec"), [((1, 28, 28), "mp"), ((3, 32, 32), "mp(iterations=4)"), ((3, 224, 224), "mp(iterations=3)")]
)
def test_counted_passes_are_the_cost_under_no_grad_too(shape, spec):
    method = METHODS.make(spec)
    classifier, x = tiny_classifier(shape), tiny_images(2, shape)
    with torch.no_grad():
        maps = method(classifier, x, torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    assert maps.shape == (2, *shape[1:])
    assert maps.dtype == x.dtype
    assert not maps.requires_grad
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert classifier.passes == method.cost(shape) * 2


def test_defaults_and_sweeps_follow_the_image_size():
    for shape, m, jitter in (((1, 28, 28), 2, 0), ((3, 224, 224), 8, 3)):
        classifier, x, y = tiny_classifier(shape), tiny_images(1, shape), torch.tensor([1])
        method = MeaningfulPerturbation(iterations=3)
        default = method(classifier, x, y, ImageRandom(0, ids(1)))
        written = method.replace(upsample=m, jitter=jitter)(classifier, x, y, ImageRandom(0, ids(1)))
        assert torch.equal(default, written)
        assert method.resolved(shape) == method.replace(upsample=m, jitter=jitter)
        cells = default[0, ::m, ::m].repeat_interleave(m, 0).repeat_interleave(m, 1)
        assert torch.equal(default[0], cells)
    grids = {size: [m.upsample for m in MeaningfulPerturbation().sweeps((3, size, size))["grid"]] for size in (28, 224)}
    assert grids == {28: [4, 2, 1], 224: [8, 4, 2]}
    assert MeaningfulPerturbation().at_upsample(4) == MeaningfulPerturbation(upsample=4)


def test_the_seed_changes_the_map():
    classifier, x, y = tiny_classifier(), tiny_images(1), torch.tensor([0])
    method = MeaningfulPerturbation(iterations=5)
    maps = [method(classifier, x, y, ImageRandom(seed, ids(1))) for seed in (0, 1)]
    assert not torch.allclose(maps[0], maps[1], atol=1e-3)


@pytest.mark.parametrize("spec", ["mp(upsample=0)", "mp(iterations=0)", "mp(jitter=-1)"])
def test_impossible_parameters_are_refused(spec):
    name = spec[3:].partition("=")[0]
    with pytest.raises(XbenchError, match=f"{name} must"):
        METHODS.make(spec)

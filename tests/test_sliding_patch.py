"""Sliding patch against a slow loop over positions, and on a classifier that is linear in the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from perturbed import SHAPES, affine, assert_batch_invariant, ids

from xbench import METHODS, ImageRandom, NotApplicable, XbenchError
from xbench.methods.sliding_patch import SlidingPatch
from xbench.testing import tiny_classifier, tiny_images


def slow_values(classifier, image, target, patch, stride, fill):
    """The grid of probability drops, one position at a time."""
    clean = classifier(image[None]).softmax(1)[0, target].item()
    rows = []
    for top in range(0, image.shape[1] - patch + 1, stride):
        row = []
        for left in range(0, image.shape[2] - patch + 1, stride):
            filled = image.clone()
            filled[:, top : top + patch, left : left + patch] = fill[:, top : top + patch, left : left + patch]
            row.append(clean - classifier(filled[None]).softmax(1)[0, target].item())
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("spec", "patch", "stride"),
    [
        ("sliding-patch", 5, 1),
        ("sliding-patch(patch=8, stride=3)", 8, 3),
        ('sliding-patch(patch=6, stride=5, fill="noise")', 6, 5),
    ],
)
def test_equals_a_loop_over_positions(spec, patch, stride, shape):
    method = METHODS.make(spec)
    classifier, x, y = tiny_classifier(shape), tiny_images(2, shape), torch.tensor([2, 0])
    maps = method(classifier, x, y, ImageRandom(0, ids(2)))
    noise = 0.5 + 0.2 * ImageRandom(0, ids(2)).normal("fill", shape)
    for i in range(2):
        fill = noise[i] if method.fill == "noise" else torch.full(shape, 0.5)
        values = slow_values(classifier, x[i], y[i], patch, stride, fill)
        assert len(values) == (shape[1] - patch) // stride + 1
        expected = F.interpolate(values[None, None], size=shape[1:], mode="bilinear", align_corners=False)[0, 0]
        assert torch.allclose(maps[i].double(), expected, atol=1e-6)


def test_a_linear_probability_gives_the_sum_of_the_removed_contributions():
    generator = torch.Generator().manual_seed(0)
    weight = 1e-3 * torch.randn(3, 30, 24, generator=generator, dtype=torch.float64)
    classifier, x = affine(weight, 0.5).double(), tiny_images(2, (3, 30, 24)).double()
    maps = SlidingPatch(patch=1, stride=1)(classifier, x, torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    contribution = ((x - 0.5) * weight).sum(1)
    assert torch.allclose(maps[0], contribution[0], atol=1e-12)
    assert torch.allclose(maps[1], -contribution[1], atol=1e-12)
    # Aligned, the value of the 3 x 3 patch around a pixel lies on that pixel.
    aligned = SlidingPatch(patch=3, stride=1, align=True)(classifier, x, torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    box = F.avg_pool2d(contribution[:1, None], 3, stride=1)[0, 0] * 9
    assert torch.allclose(aligned[0, 1:-1, 1:-1], box, atol=1e-12)
    assert torch.allclose(aligned[0, 0, 1:-1], box[0], atol=1e-12)
    assert torch.allclose(aligned[0, 1:-1, -1], box[:, -1], atol=1e-12)


@pytest.mark.parametrize(("patch", "stride"), [(5, 3), (4, 7), (28, 1)])
def test_aligned_values_are_interpolated_between_patch_centres(patch, stride):
    classifier, x, y = tiny_classifier(), tiny_images(1), torch.tensor([1])
    maps = SlidingPatch(patch=patch, stride=stride, align=True)(classifier, x, y, ImageRandom(0, ids(1)))
    values = slow_values(classifier, x[0], 1, patch, stride, torch.full((1, 28, 28), 0.5)).numpy()
    centres = np.arange(len(values)) * stride + (patch - 1) / 2
    along_rows = np.stack([np.interp(np.arange(28), centres, row) for row in values])
    expected = np.stack([np.interp(np.arange(28), centres, column) for column in along_rows.T], 1)
    assert np.allclose(maps[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_size_and_repetition_change_nothing(shape):
    assert_batch_invariant(METHODS.make('sliding-patch(stride=5, fill="mean-noise")'), tiny_images(64, shape))


@pytest.mark.parametrize(
    ("shape", "spec", "cost"),
    [
        ((1, 28, 28), "sliding-patch", 24 * 24 + 1),
        ((3, 32, 32), "sliding-patch(stride=4)", 7 * 7 + 1),
        ((3, 224, 224), "sliding-patch(stride=60)", 4 * 4 + 1),
        ((1, 28, 36), "sliding-patch(patch=20, stride=8)", 2 * 3 + 1),
    ],
)
def test_counted_passes_are_the_cost(shape, spec, cost):
    method = METHODS.make(spec)
    classifier = tiny_classifier(shape)
    maps = method(classifier, tiny_images(2, shape), torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    assert maps.shape == (2, *shape[1:])
    assert method.cost(shape).forward == cost
    assert classifier.passes == method.cost(shape) * 2


def test_defaults_and_sweeps_follow_the_image_size():
    assert SlidingPatch().cost((3, 224, 224)).forward == 66 * 66 + 1
    assert SlidingPatch().cost((3, 64, 64)).forward == 57 * 57 + 1
    assert SlidingPatch().resolved((3, 224, 224)) == SlidingPatch(patch=29, stride=3)
    assert SlidingPatch(stride=2).resolved((1, 28, 28)) == SlidingPatch(patch=5, stride=2)
    sizes = {size: [m.patch for m in SlidingPatch().sweeps((3, size, size))["patch"]] for size in (28, 224)}
    assert sizes == {28: [3, 5, 7, 9, 11], 224: [5, 17, 29, 41, 53]}
    assert SlidingPatch().sweeps((3, 224, 224))["patch"][2].cost((3, 224, 224)).forward == 66 * 66 + 1


def test_a_patch_larger_than_the_image_is_not_applicable():
    method, classifier = METHODS.make("sliding-patch(patch=29)"), tiny_classifier()
    reason = "a patch of 29 px does not fit an image of 28 x 28 px"
    assert method.not_applicable(classifier) == reason
    assert method.resolved((1, 28, 28)).patch == 29
    assert SlidingPatch().not_applicable(classifier) is None
    with pytest.raises(NotApplicable, match=reason):
        method(classifier, tiny_images(1), torch.tensor([0]), ImageRandom(0, ids(1)))


@pytest.mark.parametrize("name", ["patch", "stride"])
def test_impossible_parameters_are_refused(name):
    with pytest.raises(XbenchError, match=f"{name} must be at least 1, got 0"):
        METHODS.make(f"sliding-patch({name}=0)")

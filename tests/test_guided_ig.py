"""Guided IG: the published algorithm in a slow loop over single values, known paths, and completeness."""

from __future__ import annotations

import math

import pytest
import torch
from networks import classifier_of, digits, explain, linear
from torch import Tensor, nn

from xbench import METHODS, Classifier, XbenchError
from xbench.methods.guided_ig import GuidedIG
from xbench.testing import tiny_classifier, tiny_images


def slow_guided_ig(classifier: Classifier, image: Tensor, target: int, start: float, steps: int, fraction: float, most: float):
    """One image in plain Python: positions along the line, the values that are behind, then the flattest ones in turns."""
    x = image.flatten().tolist()
    n = len(x)
    way = [value - start for value in x]
    here = [0.0] * n
    total = [0.0] * n
    length = sum(map(abs, way))
    for step in range(1, steps + 1):
        point = torch.tensor([start + a * w for a, w in zip(here, way, strict=True)], dtype=torch.float64).view(1, *image.shape)
        point.requires_grad_()
        classifier(point)[0, target].backward()
        slope = point.grad.flatten().tolist()
        low, high = max(step / steps - most, 0), min(step / steps + most, 1)
        before = list(here)
        here = [max(a, low) for a in here]
        goal = length * (1 - step / steps)
        while (left := sum(abs(w) * (1 - a) for w, a in zip(way, here, strict=True))) - goal > 1e-9 * max(length, 1):
            cost = [math.inf if way[i] == 0 or here[i] >= high else abs(slope[i]) for i in range(n)]
            threshold = sorted(cost)[math.floor(fraction * (n - 1))]
            chosen = [i for i in range(n) if cost[i] <= threshold and cost[i] < math.inf]
            room = sum(abs(way[i]) * (high - here[i]) for i in chosen)
            gamma = (left - goal) / room if room > 0 else math.inf
            for i in chosen:
                here[i] = high if gamma > 1 else here[i] + gamma * (high - here[i])
        total = [t + g * (a - b) for t, g, a, b in zip(total, slope, here, before, strict=True)]
    assert all(a > 1 - 1e-6 or w == 0 for a, w in zip(here, way, strict=True))
    return (torch.tensor(total, dtype=torch.float64) * torch.tensor(way, dtype=torch.float64)).view(image.shape).sum(0)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 12, 12)])
@pytest.mark.parametrize(
    ("steps", "fraction", "most", "baseline"), [(20, 0.25, 0.02, "zero"), (10, 0.1, 0.3, "gray"), (6, 0.25, 1.0, "zero")]
)
def test_equals_the_algorithm_value_by_value(shape, steps: int, fraction: float, most: float, baseline: str) -> None:
    classifier, x, y = tiny_classifier(shape).double(), tiny_images(3, shape).double(), torch.tensor([1, 3, 0])
    x[1, :, 3:9] = 0.5 if baseline == "gray" else 0  # values without a way to go
    spec = f'guided-ig(steps={steps}, fraction={fraction}, max_distance={most}, baseline="{baseline}")'
    maps = explain(spec, classifier, x, y)
    for i in range(3):
        expected = slow_guided_ig(classifier, x[i], y[i], 0.5 if baseline == "gray" else 0.0, steps, fraction, most)
        torch.testing.assert_close(maps[i], expected, rtol=1e-6, atol=1e-9)


def test_equals_the_algorithm_on_a_digit_with_the_defaults() -> None:
    classifier, x, y = digits(1)
    classifier, x = classifier.double(), x.double()
    expected = slow_guided_ig(classifier, x[0], y[0], 0.0, 200, 0.25, 0.02)
    maps = explain("guided-ig", classifier, x, y)
    torch.testing.assert_close(maps[0], expected, rtol=1e-6, atol=1e-8)
    integrated = explain("integrated-gradients", classifier, x, y)
    assert (maps - integrated).abs().max() > 0.01 * integrated.abs().max()


@pytest.mark.parametrize("baseline", ["zero", "gray"])
def test_a_linear_classifier_gives_weights_times_difference(baseline: str) -> None:
    classifier, weights = linear((3, 4, 5))
    x, y = torch.rand(2, 3, 4, 5), torch.tensor([2, 0])
    expected = (weights[y] * (x - (0.3 if baseline == "gray" else 0))).sum(1)
    torch.testing.assert_close(explain(f'guided-ig(steps=3, baseline="{baseline}")', classifier, x, y), expected)


@pytest.mark.parametrize("most", [0.02, 0.2, 1.0])
def test_is_complete_up_to_the_riemann_sum(most: float) -> None:
    classifier, x, y = digits(3)
    difference = (classifier(x) - classifier(torch.zeros_like(x))).gather(1, y[:, None])[:, 0].detach()
    gaps = []
    for steps in (10, 200):
        maps = explain(f"guided-ig(steps={steps}, max_distance={most})", classifier, x, y)
        gaps.append(((maps.sum((1, 2)) - difference) / difference).abs().max())
    assert gaps[1] < gaps[0]
    assert gaps[1] < 0.1  # the gradients are those at the left ends


def test_without_distance_it_is_the_left_riemann_sum_of_integrated_gradients() -> None:
    classifier, x, y = tiny_classifier().double(), tiny_images(2).double(), torch.tensor([0, 3])
    leaf = torch.cat([x * (step / 8) for step in range(8)]).requires_grad_()
    classifier(leaf).gather(1, y.repeat(8)[:, None]).sum().backward()
    expected = (x * leaf.grad.view(8, *x.shape).mean(0))[:, 0]
    torch.testing.assert_close(explain("guided-ig(steps=8, max_distance=0.0)", classifier, x, y), expected)


class Product(nn.Module):
    """10 z_0 + z_0 z_1: steep in the first pixel until it has moved."""

    def forward(self, z: Tensor) -> Tensor:
        first, second = z.flatten(1).unbind(1)
        return (10 * first + first * second)[:, None]


def test_a_free_path_first_moves_the_flat_pixel() -> None:
    # At (0, 0) the slopes are 10 and 0: all of the second pixel moves first, where f stays 0, then the first one, along which
    # the slope is 10 + 1. The straight path would give 10.5 and 0.5.
    classifier = classifier_of(Product(), (1, 1, 2), 1)
    classifier.mean, classifier.std = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    x, y = torch.ones(1, 1, 1, 2), torch.tensor([0])
    free = explain("guided-ig(steps=40, fraction=0.25, max_distance=1.0)", classifier, x, y)
    torch.testing.assert_close(free, torch.tensor([[[11.0, 0.0]]]))
    straight = explain("guided-ig(steps=4000, max_distance=0.0)", classifier, x, y)
    torch.testing.assert_close(straight, torch.tensor([[[10.5, 0.5]]]), rtol=1e-3, atol=0)


def test_an_image_equal_to_the_baseline_gets_zeros_and_changes_no_other() -> None:
    classifier, x, y = tiny_classifier(), tiny_images(3), torch.tensor([0, 1, 2])
    x[1] = 0
    maps = explain("guided-ig(steps=7)", classifier, x, y)
    assert not maps[1].any()
    torch.testing.assert_close(maps[::2], explain("guided-ig(steps=7)", classifier, x[::2], y[::2]), rtol=1e-3, atol=1e-6)


def test_a_step_ends_where_it_should() -> None:
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(5, 50, generator=generator).double()
    share[2, :30] = 0
    share = share / share.sum(1, keepdim=True)
    slope = torch.rand(5, 50, generator=generator).double().round(decimals=1)  # with ties
    a = torch.zeros(5, 50).double()
    for step in range(1, 9):
        moved = GuidedIG(max_distance=0.2)._step(a, share, slope, step / 8)
        assert (moved >= a).all()
        torch.testing.assert_close((share * moved).sum(1), torch.full((5,), step / 8).double())
        assert ((moved - step / 8).abs() * (share > 0)).max() <= 0.2 + 1e-12
        a = moved


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("guided-ig(steps=0)", "steps must be at least 1, got 0"),
        ("guided-ig(fraction=0.0)", r"fraction must be in \(0, 1\], got 0.0"),
        ("guided-ig(max_distance=1.5)", r"max_distance must be in \[0, 1\], got 1.5"),
        ('guided-ig(baseline="blur")', "'zero' or 'gray'"),
    ],
)
def test_bad_parameters_are_named(spec: str, message: str) -> None:
    with pytest.raises(XbenchError, match=message):
        METHODS.make(spec)

"""DeepLIFT: the rescale rule written down layer by layer, Captum, completeness, and what has no rule."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import DeepLift
from networks import RELUS, Call, Small, classifier_of, digits, explain, linear, relu_classifier
from torch import Tensor, nn

from xbench import METHODS, Classifier, NotApplicable, XbenchError
from xbench.guard import changes
from xbench.testing import tiny_images
from xbench.testing.state import snapshot

SHAPE = (3, 32, 32)
APART = Call(torch.clone)
"""A layer that does nothing, for Captum."""

pytestmark = pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")


def captum(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    return DeepLift(classifier).attribute(x.clone().requires_grad_(), torch.zeros_like(x), target=y).detach()


def difference(classifier: Classifier, x: Tensor, y: Tensor, start: Tensor | float = 0.0) -> Tensor:
    with torch.no_grad():
        return (classifier(x) - classifier(torch.zeros_like(x) + start)).gather(1, y[:, None])[:, 0]


def dense(nonlinear: nn.Module, seed: int = 0) -> tuple[Classifier, list[Tensor]]:
    """Two linear layers with a nonlinearity in between, and their weights and biases."""
    generator = torch.Generator().manual_seed(seed)
    first, last = nn.Linear(12, 9), nn.Linear(9, 3)
    for parameter in (*first.parameters(), *last.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator)
    module = nn.Sequential(nn.Flatten(), first, nonlinear, last)
    return classifier_of(module, (1, 3, 4), 3).double(), [first.weight, first.bias, last.weight]


@pytest.mark.parametrize(
    "function", [F.relu, torch.tanh, F.gelu, F.silu, F.leaky_relu, F.hardtanh, torch.sigmoid, F.softplus, F.elu, F.hardswish]
)
@pytest.mark.parametrize("baseline", ["zero", "gray"])
def test_equals_the_multipliers_written_down(function, baseline: str) -> None:
    classifier, (w1, b1, w2) = dense(Call(function))
    x, y = torch.rand(4, 1, 3, 4, generator=torch.Generator().manual_seed(1)).double(), torch.tensor([0, 1, 2, 0])
    maps = explain(f'deeplift(baseline="{baseline}")', classifier, x, y)
    gray = classifier.gray.item()
    start = torch.full((12,), gray if baseline == "gray" else 0.0).double()
    for i in range(4):
        image = x[i].flatten()
        h, h_start = (w1 @ ((z - gray) / 0.5) + b1 for z in (image, start))
        multiplier = (function(h) - function(h_start)) / (h - h_start)
        expected = (image - start) * ((w2[y[i]] * multiplier) @ w1) / 0.5
        torch.testing.assert_close(maps[i].flatten(), expected, rtol=1e-6, atol=1e-9)


def test_equals_captum_on_digits() -> None:
    classifier, x, y = digits(6)
    maps = explain("deeplift", classifier, x, y)
    # Captum reads the gradient of a ReLU before it changes that of the max-pooling that follows at once: its maps are then not
    # complete. A layer in between that does nothing mends it.
    layers = [[name, layer] for name, layer in classifier.module.named_children()]
    apart = nn.Sequential(*(nn.Sequential(APART, layer) if "pool" in name else layer for name, layer in layers))
    mended = classifier_of(apart, (1, 28, 28), 10)
    mended.mean, mended.std = classifier.mean, classifier.std
    torch.testing.assert_close(maps, captum(mended, x, y).sum(1), rtol=1e-4, atol=1e-5)
    gap = (captum(classifier, x, y).sum((1, 2, 3)) - difference(classifier, x, y)).abs()
    assert gap.max() > 0.01
    torch.testing.assert_close(maps.sum((1, 2)), difference(classifier, x, y), rtol=1e-4, atol=1e-3)
    assert (maps - explain("input-x-gradient", classifier, x, y)).abs().max() > 0.05 * maps.abs().max()


@pytest.mark.parametrize("kind", [*RELUS, "reused"])
def test_every_kind_of_relu_gives_captums_map_of_modules(kind: str) -> None:
    x, y = tiny_images(4, SHAPE), torch.tensor([0, 3, 1, 1])
    apart = relu_classifier("module", SHAPE, nn.Sequential(APART, nn.MaxPool2d(2)))
    expected = captum(apart, x, y).sum(1)
    classifier = relu_classifier(kind, SHAPE)
    state = snapshot(classifier)
    maps = explain("deeplift", classifier, x, y)
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(maps.sum((1, 2)), difference(classifier, x, y), rtol=1e-3, atol=1e-5)
    assert changes(state, snapshot(classifier)) == []


def test_captum_is_wrong_on_functional_relus_which_is_why_ours_is_not_captums() -> None:
    classifier, x, y = relu_classifier("F.relu", SHAPE), tiny_images(4, SHAPE), torch.tensor([0, 3, 1, 1])
    gap = (captum(classifier, x, y).sum((1, 2, 3)) - difference(classifier, x, y)).abs()
    assert gap.max() > 0.02 * difference(classifier, x, y).abs().max()


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, padding=1),  # windows overlap
        nn.MaxPool2d(3, 1),
        Call(lambda x: F.max_pool2d(x, kernel_size=3, stride=2, ceil_mode=True)),
        Call(lambda x: torch.max_pool2d(x, 2)),
        nn.AdaptiveMaxPool2d(5),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_maxima_are_complete(pool: nn.Module, before: bool) -> None:
    # ``before``: the maximum is taken of rectified values, else of signed ones.
    network = Small(nn.ReLU, 3, nn.Sequential(APART, pool))
    if not before:
        network.relu1 = nn.Identity()
    classifier, x, y = classifier_of(network, SHAPE, 4).double(), tiny_images(4, SHAPE).double(), torch.tensor([0, 3, 1, 1])
    maps = explain("deeplift", classifier, x, y)
    torch.testing.assert_close(maps.sum((1, 2)), difference(classifier, x, y), rtol=1e-8, atol=1e-9)
    if isinstance(pool, nn.MaxPool2d) and pool.kernel_size == pool.stride:
        torch.testing.assert_close(maps, captum(classifier, x, y).sum(1), rtol=1e-6, atol=1e-9)


def test_a_maximum_written_down() -> None:
    # One window of 2 px: from the reference's maximum up to the image's at the image's argument, down at the reference's.
    class Largest(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return F.max_pool2d(z, (1, 2)).flatten(1)

    bumped = nn.Conv2d(1, 1, 1)  # z + position, so that the reference has an argument of its maximum
    bumped.weight.data.fill_(1), bumped.bias.data.zero_()
    module = nn.Sequential(bumped, Call(lambda z: z + torch.tensor([0.0, 0.5])), Largest())
    classifier = classifier_of(module, (1, 1, 2), 1)
    y = torch.tensor([0, 0])
    x = torch.tensor([[[[0.9, 0.1]]], [[[0.2, 0.4]]]])
    # z = (x - 0.3) / 0.5 + (0, 0.5); reference (-0.6, -0.1). First image (1.2, 0.1): maximum 1.2 at 0 against -0.1.
    # Second image (-0.2, 0.7): maximum 0.7 at 1.
    torch.testing.assert_close(explain("deeplift", classifier, x, y), torch.tensor([[[1.3, 0.0]], [[0.0, 0.8]]]))


@pytest.mark.parametrize("baseline", ["zero", "gray"])
def test_a_linear_classifier_gives_weights_times_difference(baseline: str) -> None:
    classifier, weights = linear((3, 4, 5))
    x, y = torch.rand(2, 3, 4, 5), torch.tensor([2, 0])
    expected = (weights[y] * (x - (0.3 if baseline == "gray" else 0))).sum(1)
    torch.testing.assert_close(explain(f'deeplift(baseline="{baseline}")', classifier, x, y), expected)


def test_an_image_equal_to_the_baseline_gets_zeros() -> None:
    x = torch.zeros(2, *SHAPE)
    maps = explain("deeplift", relu_classifier("module", SHAPE), x, torch.tensor([0, 1]))
    assert maps.isfinite().all()
    assert not maps.any()


def gated(x: Tensor) -> Tensor:
    return x * torch.sigmoid(20 * x)


def softmax(x: Tensor) -> Tensor:
    return 8 * torch.softmax(x, 1)


@pytest.mark.parametrize("function", [gated, softmax, lambda x: x.amax((2, 3), keepdim=True) + x])
def test_a_nonlinearity_without_a_rule_is_not_applicable(function) -> None:
    network = Small(nn.ReLU, 3)
    network.relu2 = Call(function)
    with pytest.raises(NotApplicable, match="classifier 'made' has a nonlinearity without a DeepLIFT rule"):
        explain("deeplift", classifier_of(network, SHAPE, 4), tiny_images(3, SHAPE), torch.tensor([0, 1, 2]))


def test_batches_are_bounded_and_change_nothing() -> None:
    x, y = tiny_images(7, SHAPE), torch.arange(7) % 4
    classifier, largest = relu_classifier("Tensor.relu_", SHAPE), []
    expected = explain("deeplift", classifier, x, y)
    classifier.module.register_forward_pre_hook(lambda _module, inputs: largest.append(len(inputs[0])))
    before = classifier.passes.copy()
    classifier.batch_size = 4
    torch.testing.assert_close(explain("deeplift", classifier, x, y), expected, rtol=1e-4, atol=1e-6)
    assert max(largest) == 4
    assert classifier.passes - before == METHODS.make("deeplift").cost(SHAPE) * 7


def test_a_wrong_baseline_is_named() -> None:
    with pytest.raises(XbenchError, match="'zero' or 'gray'"):
        METHODS.make('deeplift(baseline="blur")')

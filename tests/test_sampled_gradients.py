"""Input x gradient, SmoothGrad and Gradient SHAP: slow loops, Captum fed the same draws, known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import GradientShap, InputXGradient, NoiseTunnel, Saliency
from networks import digits, explain, linear
from perturbed import assert_batch_invariant
from torch import Tensor

from xbench import METHODS, Classifier, ImageRandom, XbenchError
from xbench.testing import tiny_classifier, tiny_images

SPECS = ["input-x-gradient", "smoothgrad(samples=5)", "smoothgrad(samples=5, squared=False)", "gradient-shap(samples=5)"]
OTHERS = ["guided-backprop", "guided-gradcam", "guided-ig(steps=5)", "integrated-gradients(steps=7)"]


def slope(classifier: Classifier, image: Tensor, target: int) -> Tensor:
    leaf = image[None].clone().requires_grad_()
    classifier(leaf)[0, target].backward()
    return leaf.grad[0]


def noise(i: int, number: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return ImageRandom(seed, [f"image-{i}"]).normal("noise", shape, number)[0]


def draws_for_captum(monkeypatch: pytest.MonkeyPatch, images: int, samples: int, shape: tuple[int, ...]) -> None:
    """Makes Captum draw what our methods draw; it repeats each image ``samples`` times."""
    drawn = torch.stack([noise(i, number, shape) for i in range(images) for number in range(samples)])
    u = [float(ImageRandom(0, [f"image-{i}"]).uniform("path", (1,), n)) for i in range(images) for n in range(samples)]
    monkeypatch.setattr(torch, "normal", lambda mean, deviation: mean + deviation * drawn)
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.array(u))


@pytest.mark.parametrize("squared", [True, False])
def test_smoothgrad_equals_a_loop_over_noisy_images(squared: bool) -> None:
    shape = (3, 32, 32)
    classifier, x, y = tiny_classifier(shape), tiny_images(3, shape), torch.tensor([1, 3, 0])
    x[1] *= 0.5
    maps = explain(f"smoothgrad(samples=4, noise=0.3, squared={squared}, seed=2)", classifier, x, y, seed=2)
    for i in range(3):
        total = torch.zeros(shape)
        for number in range(4):
            noisy = x[i] + 0.3 * (x[i].max() - x[i].min()) * noise(i, number, shape, seed=2)
            total += slope(classifier, noisy, y[i]) ** (2 if squared else 1)
        torch.testing.assert_close(maps[i], (total / 4).abs().amax(0), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("baseline", ["zero", "gray"])
def test_gradient_shap_equals_a_loop_over_draws(baseline: str) -> None:
    shape = (3, 32, 32)
    classifier, x, y = tiny_classifier(shape), tiny_images(3, shape), torch.tensor([1, 3, 0])
    maps = explain(f'gradient-shap(samples=4, noise=0.2, baseline="{baseline}")', classifier, x, y)
    start = 0.5 if baseline == "gray" else 0.0
    for i in range(3):
        total = torch.zeros(shape)
        for number in range(4):
            u = float(ImageRandom(0, [f"image-{i}"]).uniform("path", (1,), number))
            difference = x[i] + 0.2 * noise(i, number, shape) - start
            total += difference * slope(classifier, start + u * difference, y[i])
        torch.testing.assert_close(maps[i], (total / 4).sum(0), rtol=1e-4, atol=1e-7)


def test_input_x_gradient_equals_captum_on_digits() -> None:
    classifier, x, y = digits(5)
    expected = InputXGradient(classifier).attribute(x.clone().requires_grad_(), y).sum(1).detach()
    maps = explain("input-x-gradient", classifier, x, y)
    torch.testing.assert_close(maps, expected)
    assert not maps[x[:, 0] == 0].any()


@pytest.mark.parametrize(("squared", "kind"), [(True, "smoothgrad_sq"), (False, "smoothgrad")])
def test_smoothgrad_equals_captum_on_digits_with_the_same_draws(monkeypatch, squared: bool, kind: str) -> None:
    classifier, x, y = digits(3)
    x = x / x.amax((1, 2, 3), keepdim=True)  # Captum has one deviation for all images
    assert not x.amin((1, 2, 3)).any()
    maps = explain(f"smoothgrad(squared={squared})", classifier, x, y)
    draws_for_captum(monkeypatch, 3, 50, (1, 28, 28))
    tunnel = NoiseTunnel(Saliency(classifier))
    expected = tunnel.attribute(x, kind, nt_samples=50, stdevs=0.15, target=y, abs=False)
    assert maps.amax() > 0
    torch.testing.assert_close(maps, expected.abs().amax(1), rtol=1e-4, atol=1e-5)


def test_gradient_shap_equals_captum_on_digits_with_the_same_draws(monkeypatch) -> None:
    classifier, x, y = digits(3)
    maps = explain("gradient-shap", classifier, x, y)
    draws_for_captum(monkeypatch, 3, 50, (1, 28, 28))
    expected = GradientShap(classifier).attribute(x, torch.zeros_like(x[:1]), n_samples=50, stdevs=0.09, target=y)
    torch.testing.assert_close(maps, expected.sum(1), rtol=1e-4, atol=1e-5)


def test_known_answers_of_a_linear_classifier() -> None:
    shape = (3, 4, 5)
    classifier, weights = linear(shape)
    x, y = torch.rand(2, *shape), torch.tensor([2, 0])
    w = weights[y]
    torch.testing.assert_close(explain("input-x-gradient", classifier, x, y), (w * x).sum(1))
    torch.testing.assert_close(explain("smoothgrad(samples=3)", classifier, x, y), (w**2).amax(1))
    torch.testing.assert_close(explain("smoothgrad(samples=3, squared=False)", classifier, x, y), w.abs().amax(1))
    torch.testing.assert_close(explain("gradient-shap(samples=3, noise=0.0)", classifier, x, y), (w * x).sum(1))
    gray = explain('gradient-shap(samples=3, noise=0.0, baseline="gray")', classifier, x, y)
    torch.testing.assert_close(gray, (w * (x - 0.3)).sum(1))
    drawn = torch.stack([torch.stack([noise(i, number, shape) for number in range(3)]).mean(0) for i in range(2)])
    noisy = explain("gradient-shap(samples=3, noise=0.2)", classifier, x, y)
    torch.testing.assert_close(noisy, (w * (x + 0.2 * drawn)).sum(1), rtol=1e-4, atol=1e-6)


def test_gradient_shap_is_complete_in_the_mean() -> None:
    classifier, x, y = digits(2)
    maps = explain("gradient-shap(samples=600, noise=0.0)", classifier, x, y)
    difference = (classifier(x) - classifier(torch.zeros_like(x))).gather(1, y[:, None])[:, 0]
    assert difference.abs().min() > 5
    torch.testing.assert_close(maps.sum((1, 2)), difference.detach(), rtol=0.1, atol=0)
    integrated = explain("integrated-gradients(steps=100)", classifier, x, y)
    assert (maps - integrated).abs().max() < 0.15 * integrated.abs().max()


def test_without_noise_smoothgrad_is_the_gradient() -> None:
    classifier, x, y = tiny_classifier(), tiny_images(3), torch.tensor([0, 1, 2])
    gradient = explain("gradient", classifier, x, y)
    torch.testing.assert_close(explain("smoothgrad(samples=3, noise=0.0)", classifier, x, y), gradient**2)


@pytest.mark.parametrize("spec", SPECS)
def test_batch_size_and_repetition_change_nothing(spec: str) -> None:
    assert_batch_invariant(METHODS.make(spec), tiny_images(24))


@pytest.mark.parametrize("spec", [*SPECS, *OTHERS])
@pytest.mark.parametrize(("size", "images"), [(8, 3), (8, 11), (1, 2)])
def test_batches_are_bounded_and_passes_exact(spec: str, size: int, images: int) -> None:
    classifier, largest = tiny_classifier(), []
    classifier.batch_size = size
    classifier.module.register_forward_pre_hook(lambda _module, inputs: largest.append(len(inputs[0])))
    explain(spec, classifier, tiny_images(images), torch.arange(images) % 4)
    assert max(largest) <= size
    assert classifier.passes == METHODS.make(spec).cost(classifier.shape) * images


def test_sweeps_are_seeds_that_change_the_map() -> None:
    classifier, x, y = tiny_classifier(), tiny_images(1), torch.tensor([2])
    for spec in ("smoothgrad(samples=2)", "gradient-shap(samples=2)"):
        (methods,) = METHODS.make(spec).sweeps((1, 28, 28)).values()
        assert [method.seed for method in methods] == [0, 1, 2, 3, 4]
        maps = [explain(spec, classifier, x, y, seed=seed) for seed in range(2)]
        assert not torch.allclose(*maps)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("smoothgrad(samples=0)", "samples must be at least 1, got 0"),
        ("smoothgrad(noise=-0.1)", "noise must not be negative, got -0.1"),
        ("gradient-shap(samples=0)", "samples must be at least 1, got 0"),
        ("gradient-shap(noise=-1.0)", "noise must not be negative, got -1.0"),
        ('gradient-shap(baseline="blur")', "'zero' or 'gray'"),
    ],
)
def test_bad_parameters_are_named(spec: str, message: str) -> None:
    with pytest.raises(XbenchError, match=message):
        METHODS.make(spec)

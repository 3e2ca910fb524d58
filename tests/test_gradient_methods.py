"""Gradient, integrated gradients and GradCAM against the definitions, Captum called directly, and analytic cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerGradCam, Saliency
from torch import Tensor, nn

from xbench import CLASSIFIERS, DATASETS, METHODS, Classifier, ImageRandom, NotApplicable, XbenchError
from xbench.testing import tiny_classifier, tiny_images

pytestmark = pytest.mark.filterwarnings("error")  # Captum warns about what it is handed wrongly


def explain(spec: str, classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    return METHODS.make(spec)(classifier, x, y, ImageRandom(0, [str(i) for i in range(len(x))]))


def linear_classifier(shape: tuple[int, int, int], classes: int = 3) -> Classifier:
    module = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))
    return Classifier(
        module,
        name="linear",
        shape=shape,
        classes=classes,
        label_space="linear",
        mean=[0.3] * shape[0],
        std=[0.5] * shape[0],
        cam_layer=None,
        stages=[["1"]],
    )


def derivative(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each image's own logit, image by image."""
    rows = []
    for image, target in zip(x, y, strict=True):
        leaf = image[None].clone().requires_grad_()
        classifier(leaf)[0, target].backward()
        rows.append(leaf.grad)
    return torch.cat(rows)


@pytest.fixture(scope="module")
def digits() -> tuple[Classifier, Tensor, Tensor]:
    classifier = CLASSIFIERS.make("mnist-cnn").load()
    subset = DATASETS.make("mnist").load()
    x, _, _ = subset.read(subset.ids[:6])
    return classifier, x, torch.tensor([0, 3, 9, 1, 7, 7])  # not the predicted classes


def test_gradient_of_a_linear_classifier_is_its_weights() -> None:
    classifier = linear_classifier((3, 4, 5))
    weights = classifier.module[1].weight.view(3, 3, 4, 5) / 0.5
    y = torch.tensor([2, 0])
    torch.testing.assert_close(explain("gradient", classifier, torch.rand(2, 3, 4, 5), y), weights[y].abs().amax(1))


@pytest.mark.parametrize("baseline", ["zero", "gray"])
def test_integrated_gradients_of_a_linear_classifier_are_weights_times_difference(baseline: str) -> None:
    classifier = linear_classifier((3, 4, 5))
    weights = classifier.module[1].weight.view(3, 3, 4, 5) / 0.5
    x, y = torch.rand(2, 3, 4, 5), torch.tensor([2, 0])
    expected = (weights[y] * (x - (0.3 if baseline == "gray" else 0))).sum(1)
    torch.testing.assert_close(explain(f'integrated-gradients(steps=1, baseline="{baseline}")', classifier, x, y), expected)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_gradient_equals_one_backward_pass_an_image(shape: tuple[int, int, int]) -> None:
    classifier, x, y = tiny_classifier(shape), tiny_images(5, shape), torch.arange(5) % 4
    torch.testing.assert_close(explain("gradient", classifier, x, y), derivative(classifier, x, y).abs().amax(1))


@pytest.mark.parametrize("baseline", ["zero", "gray"])
def test_integrated_gradients_are_complete(digits: tuple[Classifier, Tensor, Tensor], baseline: str) -> None:
    classifier, x, y = digits[0], digits[1][:3], digits[2][:3]
    start = classifier.gray.expand_as(x) if baseline == "gray" else torch.zeros_like(x)
    difference = (classifier(x) - classifier(start)).gather(1, y[:, None])[:, 0]
    gaps = []
    for steps in (5, 200):
        maps = explain(f'integrated-gradients(steps={steps}, baseline="{baseline}")', classifier, x, y)
        gaps.append((maps.sum((1, 2)) - difference).abs().max())
    assert gaps[1] < 0.02 * difference.abs().max()
    assert gaps[1] < gaps[0]


def test_integrated_gradients_equal_the_mean_gradient_along_the_path() -> None:
    classifier, x, y = tiny_classifier((3, 32, 32)).double(), tiny_images(2, (3, 32, 32)).double(), torch.tensor([1, 3])
    points, weights = np.polynomial.legendre.leggauss(7)
    expected = torch.zeros_like(x)
    for point, weight in zip(points, weights, strict=True):
        expected += weight / 2 * derivative(classifier, (0.5 + point / 2) * x, y)
    torch.testing.assert_close(
        explain("integrated-gradients(steps=7)", classifier, x, y), (x * expected).sum(1), rtol=1e-6, atol=1e-9
    )


def test_integrated_gradients_are_zero_where_the_image_equals_the_baseline(digits: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = digits
    maps = explain("integrated-gradients(steps=3)", classifier, x, y)
    assert not maps[x[:, 0] == 0].any()
    assert maps[x[:, 0] > 0].any()


def test_gradcam_equals_its_two_equations() -> None:
    classifier, x, y = tiny_classifier((3, 32, 32)), tiny_images(4, (3, 32, 32)), torch.arange(4)
    layers = list(classifier.module)
    after = nn.Sequential(*layers[3:])
    activation = nn.Sequential(*layers[:3])((x - 0.5) / 0.25).detach().requires_grad_()  # conv2 is layers[2]
    after(activation).gather(1, y[:, None]).sum().backward()
    weights = activation.grad.mean((2, 3))
    coarse = torch.einsum("bk,bkhw->bhw", weights, activation.detach()).clamp_min(0)
    assert coarse.any()
    expected = F.interpolate(coarse[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(explain("gradcam", classifier, x, y), expected, rtol=1e-5, atol=1e-8)


def test_maps_equal_captum_called_directly(digits: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = digits
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(explain("gradient", classifier, x, y), Saliency(classifier).attribute(leaf, y).amax(1))
    integrated = IntegratedGradients(classifier).attribute(x, target=y).sum(1)
    torch.testing.assert_close(explain("integrated-gradients", classifier, x, y), integrated, rtol=1e-4, atol=1e-5)
    gradcam = LayerGradCam(classifier, classifier.module.relu3).attribute(x, y, relu_attributions=True)
    expected = LayerGradCam.interpolate(gradcam, (28, 28), "bilinear")[:, 0].detach()
    torch.testing.assert_close(explain("gradcam", classifier, x, y), expected)


def test_batch_size_bounds_memory_and_changes_nothing() -> None:
    x, y = tiny_images(7), torch.arange(7) % 4
    classifier, largest = tiny_classifier(), []
    classifier.module.register_forward_pre_hook(lambda _module, inputs: largest.append(len(inputs[0])))
    for spec in ("gradient", "gradcam", "integrated-gradients(steps=6)"):
        classifier.batch_size = 64
        expected = explain(spec, classifier, x, y)
        largest.clear()
        classifier.batch_size = 3
        torch.testing.assert_close(explain(spec, classifier, x, y), expected, rtol=1e-5, atol=1e-7)
        assert max(largest) == 3


def test_gradients_flow_although_the_caller_switched_them_off() -> None:
    classifier, x, y = tiny_classifier(), tiny_images(2), torch.tensor([0, 1])
    for spec in ("gradient", "gradcam", "integrated-gradients(steps=3)"):
        expected = explain(spec, classifier, x, y)
        with torch.no_grad():
            maps = explain(spec, classifier, x, y)
        assert maps.any()
        assert maps.equal(expected)
        assert not maps.requires_grad


def test_images_that_require_gradients_stay_out_of_the_graph() -> None:
    classifier, x, y = tiny_classifier(), tiny_images(2).requires_grad_(), torch.tensor([0, 1])
    for spec in ("gradient", "gradcam", "integrated-gradients(steps=3)"):
        assert not explain(spec, classifier, x, y).requires_grad
    assert x.grad is None
    assert x.requires_grad


def test_gradcam_does_not_apply_without_a_cam_layer() -> None:
    classifier = linear_classifier((1, 4, 4))
    method = METHODS.make("gradcam")
    assert (
        method.not_applicable(classifier) == "classifier 'linear' declares no cam_layer; it has: 0, 1; "
        "name one whose output is (b, c, h, w) with cam_layer=..."
    )
    assert method.not_applicable(tiny_classifier()) is None
    with pytest.raises(NotApplicable, match="declares no cam_layer"):
        method(classifier, torch.rand(1, 1, 4, 4), torch.tensor([0]), ImageRandom(0, ["a"]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("integrated-gradients(steps=0)", "steps=0: must be at least 1"),
        ('integrated-gradients(baseline="blur")', "'zero' or 'gray'"),
        ("integrated-gradients(steps=2.5)", "given 2.5"),
    ],
)
def test_bad_parameters_are_named(spec: str, message: str) -> None:
    with pytest.raises(XbenchError, match=message):
        METHODS.make(spec)

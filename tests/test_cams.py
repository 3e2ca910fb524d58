"""LayerCAM, HiResCAM, ScoreCAM and GroupCAM against slow loops over images and feature maps, Captum, and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradientXActivation
from perturbed import assert_batch_invariant, ids
from scipy.ndimage import correlate1d
from torch import Tensor, nn

from xbench import CLASSIFIERS, DATASETS, METHODS, METRICS, Classifier, ImageRandom, NotApplicable, XbenchError
from xbench.classifier import Passes
from xbench.run.suite import load_suite
from xbench.testing import tiny_classifier, tiny_images

NAMES = ("layercam", "hirescam", "scorecam", "groupcam")


def explain(spec: str, classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    return METHODS.make(spec)(classifier, x, y, ImageRandom(0, ids(len(x))))


def split(classifier: Classifier, image: Tensor, c: int) -> tuple[Tensor, Tensor]:
    """Output and gradient (k, u, v) of the tiny classifier's conv2, the network cut in two behind it."""
    layers = list(classifier.module)
    maps = nn.Sequential(*layers[:3])(((image - classifier.mean) / classifier.std)[None]).detach().requires_grad_()
    nn.Sequential(*layers[3:])(maps)[0, c].backward()
    return maps.detach()[0], maps.grad[0]


def large(coarse: Tensor, image: Tensor) -> Tensor:
    return F.interpolate(coarse[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0, 0]


def scaled(mask: Tensor) -> Tensor | None:
    span = mask.max() - mask.min()
    return (mask - mask.min()) / span if span > 0 else None


def probability(classifier: Classifier, image: Tensor, c: int) -> float:
    return float(classifier.module(((image - classifier.mean) / classifier.std)[None]).softmax(1)[0, c])


def slow_layercam(classifier: Classifier, image: Tensor, c: int) -> Tensor:
    maps, gradient = split(classifier, image, c)
    coarse = sum(gradient[k].clamp_min(0) * maps[k] for k in range(len(maps)))
    return large(coarse.clamp_min(0), image)


def slow_hirescam(classifier: Classifier, image: Tensor, c: int) -> Tensor:
    maps, gradient = split(classifier, image, c)
    return large(sum(gradient[k] * maps[k] for k in range(len(maps))), image)


def slow_scorecam(classifier: Classifier, image: Tensor, c: int) -> Tensor:
    maps, _ = split(classifier, image, c)
    coarse = torch.zeros_like(maps[0])
    for each in maps:
        mask = scaled(large(each, image))
        if mask is not None:
            normalised = (image - classifier.mean) / classifier.std * mask
            coarse += classifier.module(normalised[None]).softmax(1)[0, c] * each
    return large(coarse.clamp_min(0), image)


def slow_blur(image: Tensor) -> Tensor:
    """A Gaussian of 50 px at 224 px height within 25 px, borders replicated, by scipy."""
    sigma, radius = 50 * image.shape[1] / 224, round(25 * image.shape[1] / 224)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    rows = correlate1d(image.numpy(), kernel / kernel.sum(), axis=1, mode="nearest")
    return torch.from_numpy(correlate1d(rows, kernel / kernel.sum(), axis=2, mode="nearest"))


def slow_groupcam(classifier: Classifier, image: Tensor, c: int, groups: int = 32) -> Tensor:
    maps, gradient = split(classifier, image, c)
    blurred, total = slow_blur(image), torch.zeros(image.shape[1:]).to(image)
    for members in np.array_split(np.arange(len(maps)), min(groups, len(maps))):
        added = sum(gradient[k].mean() * maps[k] for k in members).clamp_min(0)
        added[added <= np.percentile(added.numpy(), 70)] = 0
        mask = scaled(large(added, image))
        if mask is not None:
            masked = mask * image + (1 - mask) * blurred
            gain = probability(classifier, masked, c) - probability(classifier, blurred, c)
            total += max(gain, 0.0) * mask
    return total


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 40)])
@pytest.mark.parametrize(
    ("spec", "slow"),
    [
        ("layercam", slow_layercam),
        ("hirescam", slow_hirescam),
        ("scorecam", slow_scorecam),
        ("groupcam", slow_groupcam),
        ("groupcam(groups=3)", lambda *given: slow_groupcam(*given, groups=3)),
    ],
)
def test_maps_equal_a_loop_over_images_and_feature_maps(spec, slow, shape):
    classifier, x, y = tiny_classifier(shape).double(), tiny_images(4, shape).double(), torch.arange(4)
    expected = torch.stack([slow(classifier, image, int(c)) for image, c in zip(x, y, strict=True)])
    assert (expected.flatten(1).std(1) > 0).sum() >= 3
    torch.testing.assert_close(explain(spec, classifier, x, y), expected, rtol=1e-8, atol=1e-10)


@pytest.fixture(scope="module")
def digits() -> tuple[Classifier, Tensor, Tensor]:
    classifier = CLASSIFIERS.make("mnist-cnn").load()
    subset = DATASETS.make("mnist").load()
    return classifier, subset.read(subset.ids[:4])[0], torch.tensor([0, 3, 9, 1])  # not the predicted classes


def test_hirescam_equals_captums_gradient_times_activation(digits):
    classifier, x, y = digits
    product = LayerGradientXActivation(classifier, classifier.target_layer()).attribute(x, y)
    expected = LayerGradientXActivation.interpolate(product.sum(1, keepdim=True), (28, 28), "bilinear")[:, 0].detach()
    torch.testing.assert_close(explain("hirescam", classifier, x, y), expected)


def test_counted_passes_on_a_real_classifier(digits):
    classifier, x, y = digits
    for name, cost in (("scorecam", Passes(65)), ("groupcam", Passes(34, 1)), ("layercam", Passes(1, 1))):
        before = classifier.passes.copy()
        maps = explain(name, classifier, x[:2], y[:2])
        assert maps.flatten(1).std(1).all()
        assert (maps >= 0).all()
        assert METHODS.make(name).cost_for(classifier) == cost
        assert classifier.passes - before == cost * 2


class PoolThenLinear(nn.Module):
    """Pooled colours to two logits: the layer ``pool`` passes the image on, an in-place ReLU comes behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(3 * 49, 2)

    def forward(self, z: Tensor) -> Tensor:
        return self.fc(self.relu(self.pool(z)).flatten(1))


def pooled() -> Classifier:
    return Classifier(
        PoolThenLinear(),
        name="pooled",
        shape=(3, 28, 28),
        classes=2,
        label_space="two",
        mean=[0.5] * 3,
        std=[0.5] * 3,
        cam_layer="pool",
        stages=[["fc"]],
    )


def test_values_of_hirescam_add_up_to_the_logit_where_one_linear_layer_follows():
    classifier, x, y = pooled(), torch.rand(3, 3, 28, 28), torch.tensor([0, 1, 1])
    maps = explain("hirescam", classifier, x, y)
    coarse = F.avg_pool2d((x - 0.5) / 0.5, 4)  # before the ReLU, which changes its input in place
    weights = classifier.module.fc.weight.view(2, 3, 7, 7)[y]
    expected = (weights * coarse.relu()).sum(1)
    torch.testing.assert_close(maps, F.interpolate(expected[:, None], (28, 28), mode="bilinear")[:, 0])
    logit = classifier(x).gather(1, y[:, None])[:, 0] - classifier.module.fc.bias[y]
    torch.testing.assert_close(expected.sum((1, 2)), logit)
    assert (maps < 0).any()
    # The in-place ReLU lets no gradient through where the pooled image is negative.
    positive = (weights.relu() * (coarse > 0) * coarse).sum(1)
    torch.testing.assert_close(
        explain("layercam", classifier, x, y), F.interpolate(positive[:, None], (28, 28), mode="bilinear")[:, 0]
    )


def test_constant_feature_maps_add_nothing():
    classifier = tiny_classifier()
    classifier.module.conv2.weight[2:] = 0
    classifier.module.conv2.bias[2:] = 5.0  # six constant maps, which would lift the whole sum
    x, y = tiny_images(3), torch.tensor([0, 1, 2])
    expected = torch.stack([slow_scorecam(classifier, image, int(c)) for image, c in zip(x, y, strict=True)])
    maps = explain("scorecam", classifier, x, y)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)
    assert maps.amax() < 1.0
    classifier.module.conv2.weight[:] = 0
    for name in NAMES[2:]:
        assert not explain(name, classifier, x, y).any()


def test_scorecam_of_the_only_feature_map_that_shows_the_object():
    """The probability reads the left half alone: of two half-image feature maps the left one gets the larger weight."""
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.Linear(4, 2))
    classifier = Classifier(
        module, name="halves", shape=(1, 28, 28), classes=2, label_space="two", mean=[0.0], std=[1.0], cam_layer="0", stages=[]
    )
    module[0].weight.fill_(1.0)
    module[0].bias.zero_()
    module[3].weight[:] = torch.tensor([[10.0, 0, 0, 0], [0, 0, 0, 0]])
    module[3].bias.zero_()
    x = torch.zeros(1, 1, 28, 28)
    x[..., :14] = 1
    p = float(torch.sigmoid(torch.tensor(10.0)))
    maps = explain("scorecam", classifier, x, torch.tensor([0]))
    torch.testing.assert_close(maps, 2 * p * x[:, 0])
    torch.testing.assert_close(
        explain("scorecam", classifier, x, torch.tensor([1])), 2 * (1 - p) * x[:, 0], atol=1e-6, rtol=1e-2
    )


@pytest.mark.parametrize("spec", ["layercam", "hirescam", "scorecam"])
def test_batch_size_and_repetition_change_nothing(spec):
    assert_batch_invariant(METHODS.make(spec), tiny_images(21))


def test_no_more_than_one_batch_of_masks_exists():
    classifier, largest = tiny_classifier((3, 32, 32)), []
    classifier.batch_size = 5
    classifier.module.register_forward_pre_hook(lambda _module, inputs: largest.append(len(inputs[0])))
    for name in NAMES:
        explain(name, classifier, tiny_images(7, (3, 32, 32)), torch.arange(7) % 4)
    assert max(largest) == 5


def test_no_hook_is_left_when_the_network_fails():
    classifier = tiny_classifier()
    for name in NAMES:
        classifier.module.fc.weight.data = torch.zeros(4, 3)
        with pytest.raises(RuntimeError):
            explain(name, classifier, tiny_images(2), torch.tensor([0, 1]))
        assert not any(module._forward_hooks for module in classifier.modules())
        classifier = tiny_classifier()


@pytest.mark.parametrize("name", NAMES)
def test_without_a_cam_layer_the_reason_names_the_layers(name):
    classifier = tiny_classifier()
    classifier.cam_layer = None
    method = METHODS.make(name)
    reason = method.not_applicable(classifier)
    assert reason is not None
    assert "it has: conv1, relu1, conv2," in reason
    assert "cam_layer=" in reason
    with pytest.raises(NotApplicable, match="declares no cam_layer"):
        explain(name, classifier, tiny_images(1), torch.tensor([0]))
    method.cost_for(classifier)  # the planner asks for it before it knows


def test_the_planner_knows_the_cost_of_scorecam():
    classifier, scorecam = tiny_classifier(), METHODS.make("scorecam")
    suite = load_suite("smoke").model_copy
    assert scorecam.cost_for(classifier) == Passes(9)
    assert suite(update={"max_passes": 9}).affordable(scorecam, classifier)
    assert not suite(update={"max_passes": 8}).affordable(scorecam, classifier)
    for name in METRICS.names():
        metric = METRICS.quick(name)
        if metric.not_applicable(scorecam, classifier) is None:
            metric.cost(scorecam, classifier)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("groupcam(groups=0)", "groups must be at least 1, got 0"), ('scorecam(fill="grey")', "fill must be one of")],
)
def test_bad_parameters_are_named(spec, message):
    with pytest.raises(XbenchError, match=message):
        METHODS.make(spec)

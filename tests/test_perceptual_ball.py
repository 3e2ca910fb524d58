"""AP against torch's L-BFGS on one image at a time, and on a linear classifier whose smallest change is known."""

from __future__ import annotations

import pytest
import torch
from perturbed import SHAPES, assert_iterative_batch_invariant, ids
from torch import nn

from xbench import CLASSIFIERS, DATASETS, METHODS, Classifier, ImageRandom, NotApplicable, XbenchError
from xbench.classifier import Passes
from xbench.methods.perceptual_ball import PerceptualBall
from xbench.ops.blur import gaussian_blur
from xbench.ops.lbfgs import lbfgs
from xbench.testing import tiny_classifier, tiny_images


def valley(points):
    """Rosenbrock's function of consecutive pairs."""
    return (100 * (points[..., 1:] - points[..., :-1] ** 2) ** 2 + (1 - points[..., :-1]) ** 2).sum(-1)


def evaluation(function, asked=None):
    def evaluate(row, points):
        if asked is not None:
            asked.append(row.tolist())
        with torch.enable_grad():
            points = points.clone().requires_grad_()
            values = function(points)
            (gradient,) = torch.autograd.grad(values.sum(), points)
        return values.detach(), gradient

    return evaluate


def torch_lbfgs(function, start, iterations):
    point = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([point], max_iter=iterations)

    def closure():
        optimiser.zero_grad()
        loss = function(point)
        loss.backward()
        return loss

    optimiser.step(closure)
    return point.detach()


@pytest.mark.parametrize("iterations", [1, 4, 7, 30])
def test_every_row_goes_where_torch_goes(iterations):
    start = 0.5 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start[0] = 1  # the minimum
    ended = lbfgs(evaluation(valley), start, iterations)
    for row, end in zip(start, ended, strict=True):
        assert torch.allclose(torch_lbfgs(valley, row, iterations), end, rtol=1e-6, atol=1e-8)


def test_rows_stop_by_themselves():
    start = torch.tensor([[1.0, 1.0], [0.3, -0.2]], dtype=torch.float64)
    asked = []
    ended = lbfgs(evaluation(lambda points: (points - 1).square().sum(-1), asked), start, 50)
    assert torch.allclose(ended, torch.ones(2, 2, dtype=torch.float64), atol=1e-6)
    assert asked[0] == [0, 1]
    assert asked[1:] == [[1]] * (len(asked) - 1)
    assert len(asked) < 10


def test_a_row_whose_loss_is_not_finite_stays_where_it_was():
    # The first step, of length 1, leads from -0.5 below the logarithm's domain; the other row goes on to its minimum.
    start = torch.tensor([[0.5], [3.0]], dtype=torch.float64)
    ended = lbfgs(
        evaluation(lambda points: (points.log() * torch.tensor([[1.0], [0.0]])[: len(points)] + points).sum(-1)), start, 1
    )
    assert ended.isfinite().all()
    asked = []
    ended = lbfgs(evaluation(lambda points: points.log().sum(-1), asked), start[:1], 10)
    assert torch.equal(ended, start[:1])
    assert len(asked) == 2


def slow_ap(classifier, image, target, layers, iterations, weight, margin):
    """One image: the change in normalised units by torch's L-BFGS, its features from running the layers one by one."""

    def run(z):
        found = []
        for name, module in classifier.module.named_children():
            z = module(z)
            if name in layers:
                found.append(z)
        return found, z[0]

    mean, std = classifier.mean, classifier.std
    z = ((image - mean) / std)[None]
    clean, _ = run(z)

    def loss(d):
        outputs, logits = run(z + d)
        other = max(logits[k] for k in range(len(logits)) if k != target)
        near = sum(((f - g) ** 2).mean() for f, g in zip(outputs, clean, strict=True))
        return weight * near + (d**2).mean() + (logits[target] - other - margin) ** 2

    return torch_lbfgs(loss, torch.zeros_like(z), iterations)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("parameters", "layers", "weight", "margin", "sigma"),
    [
        ("", ("conv1", "conv2"), 10.0, -2.0, 1.0),
        ('layers=("relu2", "fc"), weight=3.0, margin=-0.5, sigma=0.0', ("relu2", "fc"), 3.0, -0.5, 0.0),
        ("layers=(), sigma=2.0", (), 10.0, -2.0, 2.0),
    ],
)
def test_equals_one_image_at_a_time(parameters, layers, weight, margin, sigma, shape):
    method = METHODS.make(f"perceptual-ball(iterations=12, {parameters})")
    classifier, x = tiny_classifier(shape).double(), tiny_images(3, shape).double()
    y = torch.tensor([0, 1, 3])
    maps = method(classifier, x, y, ImageRandom(0, ids(3)))
    for i in range(3):
        change = slow_ap(classifier, x[i], y[i], layers, 12, weight, margin)
        expected = gaussian_blur((change**2).mean(0).sqrt()[None, None], sigma)[0, 0]
        assert torch.allclose(maps[i], expected, rtol=0, atol=1e-6 * expected.max())
        assert expected.max() > 1e-3


def linear(weight, layer="fc"):
    module = nn.Sequential()
    module.add_module("flatten", nn.Flatten())
    module.add_module(layer, nn.Linear(weight.numel(), 2, bias=False))
    module[1].load_state_dict({"weight": torch.stack([weight.flatten(), -weight.flatten()])})
    return Classifier(
        module,
        name="linear",
        shape=tuple(weight.shape),
        classes=2,
        label_space="two",
        mean=[0.5],
        std=[0.25],
        cam_layer=None,
        stages=[],
    )


def test_a_linear_classifier_is_changed_along_its_weight():
    # Minimum of mean d^2 + (s + 2 w.d - margin)^2: d = -2 w (s - margin) / (1 / n + 4 |w|^2), s the clean difference.
    weight = torch.zeros(1, 8, 8).double()
    weight[0, 2:5, 1:4] = torch.arange(1.0, 10.0).view(3, 3) / 10
    x, n = tiny_images(2, (1, 8, 8)).double(), 64
    classifier = linear(weight.float()).double()
    maps = PerceptualBall(layers=(), sigma=0.0)(classifier, x, torch.tensor([0, 1]), ImageRandom(0, ids(2)))
    w = classifier.module.fc.weight[0].view(8, 8)
    s = 2 * (((x - 0.5) / 0.25)[:, 0] * w).sum((1, 2)) * torch.tensor([1, -1])
    expected = (2 * w * ((s + 2) / (1 / n + 4 * w.square().sum()))[:, None, None]).abs()
    assert torch.allclose(maps, expected, atol=1e-6)


def test_a_wider_ball_lets_the_features_change_more():
    classifier, x = tiny_classifier().double(), tiny_images(3).double()
    y = classifier.probabilities(x).argmax(1)
    sizes = [PerceptualBall(weight=w).change(classifier, x, y).square().mean((1, 2, 3)) for w in (1e3, 1e1)]
    assert (sizes[1] > 2 * sizes[0]).all()


def test_another_class_overtakes_on_digits_of_all_classes():
    classifier, subset = CLASSIFIERS.make("mnist-cnn").load(), DATASETS.make("mnist").load()
    names = list(subset.ids[:20])
    x, _, _ = subset.read(names)
    y = classifier.probabilities(x).argmax(1)
    assert (y == 0).any()
    before = classifier.passes.copy()
    change = PerceptualBall().change(classifier, x, y)
    used, most = classifier.passes - before, PerceptualBall().cost(classifier.shape) * 20
    assert most == Passes(20 * 101, 20 * 100)
    assert 0 < used.backward <= most.backward
    assert used.forward == used.backward + 20
    assert (classifier(x + classifier.std * change).argmax(1) != y).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_size_and_repetition_change_nothing(shape):
    assert_iterative_batch_invariant(PerceptualBall(iterations=6), shape)


def test_layers_that_do_not_serve_are_refused_and_no_hook_stays():
    classifier, x, y = tiny_classifier(), tiny_images(1), torch.tensor([0])
    rng = ImageRandom(0, ids(1))
    with pytest.raises(NotApplicable, match=r"has no layer 'conv9'; it has: conv1, relu1"):
        PerceptualBall(layers=("conv9",))(classifier, x, y, rng)
    with pytest.raises(NotApplicable, match="has no convolution: name its layers; it has: flatten, fc"):
        PerceptualBall()(linear(torch.ones(1, 28, 28)), x, y, rng)
    classifier.module.add_module("idle", nn.ModuleDict({"unused": nn.Identity()}))
    classifier.module.idle.forward = lambda z: z
    with pytest.raises(NotApplicable, match=r"layer 'idle.unused' .* must give one tensor in a pass, gave 0"):
        PerceptualBall(layers=("conv1", "idle.unused"))(classifier, x, y, rng)
    classifier.module.idle.forward = lambda z: z + 0 * classifier.module.idle.unused(z.detach().requires_grad_()).detach()
    with pytest.raises(NotApplicable, match=r"layer 'idle.unused' .* does not lead to the logits"):
        PerceptualBall(layers=("conv1", "idle.unused"))(classifier, x, y, rng)
    assert not any(module._forward_hooks for module in classifier.modules())


def test_features_are_those_before_an_activation_in_place():
    classifier, twin, x, y = tiny_classifier(), tiny_classifier(), tiny_images(2), torch.tensor([0, 1])
    for module in twin.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    assert any(isinstance(module, nn.ReLU) for module in twin.modules())
    changes = [PerceptualBall(iterations=6).change(network, x, y) for network in (classifier, twin)]
    torch.testing.assert_close(*changes)


def test_defaults_and_sweeps_follow_the_image_size():
    method = PerceptualBall()
    assert method.resolved((3, 224, 224)) == method.replace(weight=1e4, sigma=2.0)
    assert method.resolved((1, 28, 28)) == method.replace(weight=10.0, sigma=1.0)
    assert [m.weight for m in method.sweeps((1, 28, 28))["weight"]] == pytest.approx([0.1, 1, 10, 100, 1000])


@pytest.mark.parametrize("argument", ["iterations=0", "weight=-1.0", "sigma=-1.0", 'layers=("a", "a")'])
def test_impossible_parameters_are_refused(argument):
    with pytest.raises(XbenchError, match=f"{argument.partition('=')[0]} must"):
        METHODS.make(f"perceptual-ball({argument})")

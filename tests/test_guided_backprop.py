"""Guided backpropagation and Guided GradCAM: every kind of ReLU, a slow reference, Captum, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedBackprop, GuidedGradCam
from networks import RELUS, Call, Small, classifier_of, digits, explain, linear, relu_classifier
from torch import Tensor, nn

from xbench import Batch, Explainer, NotApplicable
from xbench.guard import changes
from xbench.methods.gradcam import GradCam
from xbench.methods.gradient import Gradient
from xbench.methods.guided_backprop import GuidedBackprop as Guided
from xbench.methods.guided_gradcam import GuidedGradCam as GuidedCam
from xbench.metrics.randomisation import Randomisation
from xbench.ops.rewriting import GuidedReLUs
from xbench.testing import tiny_images
from xbench.testing.state import snapshot

SHAPE = (3, 32, 32)


class SlowReLU(torch.autograd.Function):
    """ReLU whose backward pass is written down: positive gradients at positive inputs."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * (x > 0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (gradient > 0) * (x > 0)


def slow_guided(x: Tensor, y: Tensor) -> Tensor:
    """The guided gradient of `Small`, image by image."""
    network = Small(lambda: Call(SlowReLU.apply), x.shape[1]).eval()
    rows = []
    for image, target in zip(x, y.tolist(), strict=True):
        leaf = image[None].clone().requires_grad_()
        network((leaf - 0.3) / 0.5)[0, target].backward()
        rows.append(leaf.grad)
    return torch.cat(rows)


@pytest.mark.parametrize("kind", [*RELUS, "reused"])
def test_every_kind_of_relu_is_guided(kind: str) -> None:
    classifier, x, y = relu_classifier(kind, SHAPE), tiny_images(4, SHAPE), torch.tensor([0, 3, 1, 1])
    expected = slow_guided(x, y).abs().amax(1)
    assert (expected - explain("gradient", classifier, x, y)).abs().max() > 0.1 * expected.max()
    state, logits = snapshot(classifier), classifier(x)
    torch.testing.assert_close(explain("guided-backprop", classifier, x, y), expected)
    cam = explain("gradcam", classifier, x, y)
    torch.testing.assert_close(explain("guided-gradcam", classifier, x, y), cam * expected)
    assert changes(state, snapshot(classifier)) == []
    assert classifier(x).equal(logits)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_equals_captum() -> None:
    shipped, ink, top = digits(5)
    small, x, y = relu_classifier("module", SHAPE), tiny_images(5, SHAPE), torch.arange(5) % 4
    for classifier, images, classes, layer in (
        (shipped, ink, top, shipped.module.relu3),
        (small, x, y, small.module.conv2),
    ):
        guided = GuidedBackprop(classifier).attribute(images.clone().requires_grad_(), classes)
        torch.testing.assert_close(explain("guided-backprop", classifier, images, classes), guided.abs().amax(1))
        cam = GuidedGradCam(classifier, layer)
        product = cam.attribute(images.clone().requires_grad_(), classes, interpolate_mode="bilinear").detach()
        ours = explain("guided-gradcam", classifier, images, classes)
        assert ours.any()
        torch.testing.assert_close(ours, product.abs().amax(1), rtol=1e-4, atol=1e-6)


def test_positive_weights_and_inputs_leave_the_gradient() -> None:
    # Nothing is negative, so there is nothing to cut off: the map is the product of the weights.
    first, last = torch.rand(5, 12), torch.rand(2, 5)
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False))
    module[1].weight.data, module[3].weight.data = first, last
    classifier = classifier_of(module, (1, 3, 4), 2)
    x, y = 0.4 + 0.5 * torch.rand(3, 1, 3, 4), torch.tensor([0, 1, 1])
    torch.testing.assert_close(explain("guided-backprop", classifier, x, y), (last @ first / 0.5)[y].view(3, 3, 4))
    module[3].weight.data = -last
    assert not explain("guided-backprop", classifier, x, y).any()
    assert explain("gradient", classifier, x, y).all()


def test_what_does_not_cut_at_zero_keeps_its_gradient() -> None:
    x = torch.linspace(-2, 2, 9)
    for function in (F.leaky_relu, F.hardtanh, torch.tanh, lambda t: t.clamp(-1, 1), lambda t: t.clamp(min=torch.zeros(9))):
        slopes = []
        for guided in (False, True):
            leaf = x.clone().requires_grad_()
            with GuidedReLUs() if guided else torch.enable_grad():
                y = function(leaf)
            slopes.append(torch.autograd.grad(-y.sum(), leaf)[0])
        assert slopes[0].any()
        assert slopes[0].equal(slopes[1])


def test_a_network_without_relu_is_not_applicable() -> None:
    classifier, _ = linear((1, 4, 4))
    with pytest.raises(NotApplicable, match="classifier 'made' calls no ReLU"):
        explain("guided-backprop", classifier, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))
    assert Guided().not_applicable(classifier) is None
    assert "declares no cam_layer" in str(GuidedCam().not_applicable(classifier))
    assert GuidedCam().not_applicable(relu_classifier("F.relu")) is None


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_layer_whose_relus_cannot_be_seen_is_named() -> None:
    classifier = relu_classifier("module")
    classifier.module.relu2 = torch.jit.trace(nn.ReLU(), torch.zeros(1, 8, 7, 7))
    for method in (Guided(), GuidedCam()):
        assert method.not_applicable(classifier) == "layer 'relu2' of classifier 'made' is TorchScript"


@pytest.mark.parametrize("spec", ["guided-backprop", "guided-gradcam", "deeplift"])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_an_exception_in_the_middle_leaves_nothing_behind(spec: str, where: str) -> None:
    classifier, x, y = relu_classifier("Tensor.relu_", SHAPE), tiny_images(2, SHAPE), torch.tensor([0, 1])
    gradient, maps = explain("gradient", classifier, x, y), explain(spec, classifier, x, y)
    state = snapshot(classifier)
    armed = True

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    def arm(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        if armed and output.requires_grad:
            fail() if where == "forward" else output.register_hook(fail)

    with classifier.module.conv2.register_forward_hook(arm), pytest.raises(RuntimeError, match="in the middle"):
        explain(spec, classifier, x, y)
    armed = False
    assert torch.overrides._get_current_function_mode_stack() == []
    assert changes(state, snapshot(classifier)) == []
    assert explain("gradient", classifier, x, y).equal(gradient)
    assert explain(spec, classifier, x, y).equal(maps)


def test_the_sanity_check_finds_the_guided_methods() -> None:
    # Pearson's correlation of the maps under cascading randomisation. Seen: gradient 0.39, guided 0.81; GradCAM 0.07, guided
    # GradCAM 0.35; with every layer randomised 0.23 and 0.60, -0.04 and 0.20.
    classifier, x, y = digits(8)
    batch = Batch(ids=[str(i) for i in range(8)], x=x, label=y, target=y)
    curves = {}
    for method in (Gradient(), Guided(), GradCam(), GuidedCam()):
        scored = Randomisation()(Explainer(method, classifier), batch, None)
        curves[type(method)] = scored.curves["pc"].nanmean(0)
    for plain, guided, margin in ((Gradient, Guided, 0.3), (GradCam, GuidedCam, 0.2)):
        assert curves[guided].mean() > curves[plain].mean() + margin
        assert (curves[guided] > curves[plain]).all()
    assert curves[Guided][-1] > 0.5

"""The conformance checks of methods find every broken rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from scratch import findings, register, scratch_registries
from torch import Tensor, nn

from xbench import METHODS, Classifier, ImageRandom, Method, TrainedMethod
from xbench.classifier import Passes
from xbench.testing import check_method


@pytest.fixture(autouse=True)
def _scratch() -> Iterator[None]:
    with scratch_registries():
        yield


def pixel_sum(classifier: Classifier, x: Tensor, y: Tensor, rng: ImageRandom) -> Tensor:
    return x.sum(1)


def register_method(call: Callable[..., Any], *, seeded: bool = False, **attributes: Any) -> str:
    usual = {
        "__doc__": "Sum of the channels (own decision).",
        "cost": lambda self, shape: Passes(),
        "not_applicable": lambda self, classifier: None if hasattr(classifier.module, "conv1") else "needs convolutions",
    }
    namespace = {**usual, **attributes}
    namespace["__call__"] = lambda self, classifier, x, y, rng: call(classifier, x, y, rng)
    return register(METHODS, Method, [("seed", int, 0)] if seeded else [], **namespace)


def leaves_a_hook(classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    classifier.module.conv2.register_forward_hook(lambda *_: None)
    return x.sum(1)


def switches_training_on(classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    classifier.module.conv1.train()
    return x.sum(1)


def changes_a_weight(classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    classifier.module.fc.bias[0] += 1
    return x.sum(1)


def leaves_requires_grad(classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    classifier.module.fc.bias.requires_grad_()
    return x.sum(1)


def patches_forward(classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    classifier.module.relu1.forward = lambda z: z
    return x.sum(1)


def switches_gradients_off(_classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    torch.set_grad_enabled(False)
    return x.sum(1)


def seeds_the_process(_classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    torch.manual_seed(0)
    return x.sum(1) + torch.rand(x.shape[2:]).to(x)


def draws_globally(_classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    return x.sum(1) + torch.rand(x.shape[2:]).to(x)


def couples_the_batch(_classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    return (x / x.amax()).sum(1)


def follows_the_order(_classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    return x.sum(1) * (1 + torch.arange(len(x)).to(x)[:, None, None])


def writes_into_the_images(_classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    return x.mul_(0.5).sum(1)


def asks_the_classifier(classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    classifier.probabilities(x)
    return x.sum(1)


def keeps_the_graph(classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    with torch.enable_grad():
        return x.clone().requires_grad_().sum(1)


def follows_the_gradient_mode(_classifier: Classifier, x: Tensor, *_: Any) -> Tensor:
    return x.sum(1) * (1 if torch.is_grad_enabled() else 2)


def draws_per_image(_classifier: Classifier, x: Tensor, y: Tensor, rng: ImageRandom) -> Tensor:
    return rng.uniform("made", x.shape[2:]).to(x)


@pytest.mark.parametrize(
    ("call", "attributes", "expected"),
    [
        (lambda _c, x, *_: x, {}, "returns maps of shape (2, 1, 28, 28), expected (2, 28, 28)"),
        (lambda _c, x, *_: x.sum(1).numpy(), {}, "returns a ndarray, expected (2, 28, 28)"),
        (lambda _c, x, *_: x.sum(1).double(), {}, "maps are torch.float64 on cpu"),
        (lambda _c, x, *_: x.sum(1).float(), {}, "maps are torch.float32 on cpu"),
        (lambda _c, x, *_: x.sum(1) / 0, {}, "maps have NaN or infinite values"),
        (leaves_a_hook, {}, "does not leave as found: hooks of module.conv2"),
        (switches_training_on, {}, "does not leave as found: training mode of module.conv1"),
        (changes_a_weight, {}, "does not leave as found: value of parameter module.fc.bias"),
        (leaves_requires_grad, {}, "does not leave as found: requires_grad of parameter module.fc.bias"),
        (patches_forward, {}, "does not leave as found: forward function of module.relu1"),
        (switches_gradients_off, {}, "does not leave as found: torch's gradient mode"),
        (seeds_the_process, {}, "does not leave as found: torch's global random state"),
        (draws_globally, {}, "two calls with the same seed differ"),
        (couples_the_batch, {}, "a batch of 3 and 3 batches of 1 differ by"),
        (follows_the_order, {}, "another order and batch_size 2 change the maps by"),
        (writes_into_the_images, {}, "changes the images or classes that it is given"),
        (asks_the_classifier, {}, "Passes(forward=2, backward=0) counted for 2 images, cost() says Passes(forward=0"),
        (keeps_the_graph, {}, "maps still carry a graph"),
        (follows_the_gradient_mode, {}, "a call under torch.no_grad() gives other maps"),
        (draws_per_image, {}, "the maps depend on the seed, but the method has no parameter seed"),
        (pixel_sum, {"seeded": True}, "has a parameter seed, but the maps do not depend on the seed"),
        (pixel_sum, {"control": True, "cost": lambda self, shape: Passes(1)}, "is a control, but its cost is not 0"),
        (pixel_sum, {"__doc__": "Sum of the channels."}, "the docstring names no source"),
        (pixel_sum, {"__doc__": None}, "has no docstring"),
        (pixel_sum, {"not_applicable": lambda self, c: "no reason"}, "its maps are not checked: no reason"),
        (pixel_sum, {"at_upsample": lambda self, m: self}, "must give three different methods"),
        (pixel_sum, {"sweeps": lambda self, shape: {"one": [self]}}, "must hold at least 2 different methods: [made]"),
    ],
)
def test_a_broken_method_is_found(call: Callable[..., Any], attributes: dict[str, Any], expected: str) -> None:
    try:
        assert expected in findings(check_method, register_method(call, **attributes))
    finally:
        torch.set_grad_enabled(True)


@pytest.mark.parametrize("attributes", [{}, {"not_applicable": lambda self, c: None}])
def test_a_method_within_the_rules_passes(attributes: dict[str, Any]) -> None:
    check_method(register_method(pixel_sum, **attributes))


def only_on(*names: str) -> Callable[..., Tensor]:
    return lambda classifier, x, *_: x.sum(1) / (1.0 if classifier.name in names else 0.0)


def test_a_method_that_claims_transformers_is_checked_on_one() -> None:
    claims = {"not_applicable": lambda self, classifier: None}
    name = register_method(only_on("tiny"), **claims)
    assert findings(check_method, name).startswith("made of tiny-transformer on (2, 1, 28, 28)")
    check_method(register_method(only_on("tiny", "mnist-cnn")))


def test_a_method_is_checked_on_digits_too() -> None:
    assert (
        findings(check_method, register_method(only_on("tiny")))
        == "method 'made' returned NaN or infinite values in 2 of 2 maps"
    )
    wrong = register_method(lambda classifier, x, *_: x.sum(1) * (1 if classifier.name == "tiny" else len(x)))
    assert "made at its defaults on digits: batches of 2 and of 1 differ by" in findings(check_method, wrong)


def test_a_method_for_transformers_alone_is_checked_on_one() -> None:
    alone = {"not_applicable": lambda self, c: "needs attention" if hasattr(c.module, "conv1") else None}
    with scratch_registries():
        check_method(register_method(only_on("tiny-transformer"), **alone))
    assert "made of tiny-transformer on (1, 3, 224, 224)" in findings(check_method, register_method(only_on("tiny"), **alone))


def test_a_seeded_method_within_the_rules_passes() -> None:
    check_method(register_method(draws_per_image, seeded=True))


def test_an_exception_of_a_method_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        check_method(register_method(lambda _c, x, *_: torch.autograd.grad(x.sum(), x)[0].sum(1)))


def register_trained(**attributes: Any) -> str:
    usual = {
        "__doc__": "A convolution (own decision).",
        "network": lambda self, shape, classes: nn.Conv2d(shape[0], 1, 3, padding=1),
        "loss": lambda self, network, classifier, x, rng: network(x).square().mean() + 0 * classifier(x).sum(),
        "explain": lambda self, network, x, y, rng: network(x)[:, 0],
        "fit_cost": lambda self, shape: Passes(1),
    }
    return register(METHODS, TrainedMethod, **{**usual, **attributes})


def test_a_trained_method_within_the_rules_passes() -> None:
    check_method(register_trained())


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"loss": lambda self, n, c, x, rng: n(x)}, "loss() must be a finite scalar with a gradient"),
        ({"loss": lambda self, n, c, x, rng: n(x).mean() / 0}, "loss() must be a finite scalar with a gradient"),
        ({"loss": lambda self, n, c, x, rng: n(x).detach().mean()}, "loss() must be a finite scalar with a gradient"),
        ({"loss": lambda self, n, c, x, rng: n(x).mean()}, "0, backward=0) counted for 4 images, fit_cost() says"),
        (
            {"loss": lambda self, n, c, x, rng: 0 * n(x).mean() + 0 * c(x).sum()},
            "the gradient of loss() is not finite or reaches no parameter",
        ),
        (
            {"loss": lambda self, n, c, x, rng: (n(x) * torch.rand(1)).mean() + 0 * c(x).sum()},
            "loss() draws from a global generator",
        ),
        ({"explain": lambda self, n, x, y, rng: n(x - x.mean())[:, 0]}, "a batch of 3 and 3 batches of 1 differ by"),
    ],
)
def test_a_broken_trained_method_is_found(attributes: dict[str, Any], expected: str) -> None:
    assert expected in findings(check_method, register_trained(**attributes))

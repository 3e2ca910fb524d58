"""Foreign code as methods: what it is given, what it may return, and that nothing of it stays behind."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import GradientShap, LayerGradCam, Occlusion, Saliency
from scratch import scratch_registries
from torch import Tensor

from xbench import CLASSIFIERS, METHODS, Explainer, ImageRandom, XbenchError, from_callable, from_captum, from_grad_cam
from xbench.classifier import Classifier, Passes
from xbench.guard import changes
from xbench.testing import check_method, tiny_batch, tiny_classifier
from xbench.testing.state import snapshot

IDS = ["a", "b", "c"]
UNREADABLE = eval("lambda model, x, y: x", {"__name__": "nowhere"})


@pytest.fixture(autouse=True)
def scratch() -> Iterator[None]:
    with scratch_registries():
        yield


def saliency(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the logit."""
    x.requires_grad_()
    model(x).gather(1, y[:, None]).sum().backward()
    assert x.grad is not None
    return x.grad


def maps_of(spec: str, classifier: Classifier, seed: int = 0, order: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    batch = tiny_batch(3, classifier)
    index = list(order)
    ids = [IDS[i] for i in index]
    return METHODS.make(spec)(classifier, batch.x[index], batch.target[index], ImageRandom(seed, ids))


def test_a_callable_gives_the_map_of_the_method_that_it_computes() -> None:
    classifier = CLASSIFIERS.make("mnist-cnn").load()
    from_callable("mine", saliency, reduce="max-abs")
    from_callable("mine-batched", saliency, reduce="max-abs", batchable=True, cost=Passes(1, 1))
    theirs = maps_of("gradient", classifier)
    assert maps_of("mine-batched", classifier).equal(theirs)
    assert torch.allclose(maps_of("mine", classifier), theirs, rtol=1e-5, atol=1e-7)
    check_method("mine")
    check_method("mine-batched")


def test_captum_gives_the_attributions_of_captum() -> None:
    classifier = tiny_classifier((3, 32, 32))
    batch = tiny_batch(3, classifier)
    from_captum("theirs", Saliency, abs=False, batchable=True)
    x = batch.x.clone().requires_grad_()
    assert maps_of("theirs", classifier).equal(Saliency(classifier).attribute(x, batch.target, abs=False).sum(1))
    assert METHODS.make("theirs(abs=True)") != METHODS.make("theirs")
    check_method("theirs")


def test_arguments_may_depend_on_the_images() -> None:
    from_captum("patches", Occlusion, sliding_window_shapes=lambda x: (x.shape[1], 8, 8), strides=lambda x: (x.shape[1], 4, 4))
    for shape, positions in (((1, 28, 28), 6), ((3, 32, 32), 7)):
        classifier = tiny_classifier(shape)
        batch = tiny_batch(3, classifier)
        window, strides = (shape[0], 8, 8), (shape[0], 4, 4)
        theirs = Occlusion(classifier).attribute(batch.x, window, strides, target=batch.target).sum(1)
        assert torch.allclose(maps_of("patches", classifier), theirs, atol=1e-6)
        assert METHODS.make("patches").cost(shape) == Passes(positions**2 + 1)


def test_a_layer_is_enlarged_as_gradcam_is() -> None:
    classifier = CLASSIFIERS.make("mnist-cnn").load()
    from_captum("layer", lambda model: LayerGradCam(model, model.target_layer()), relu_attributions=True, batchable=True)
    assert maps_of("layer", classifier).equal(maps_of("gradcam", classifier))


def test_what_needs_a_layer_does_not_apply_where_there_is_none() -> None:
    from_captum("layer", lambda model: LayerGradCam(model, model.target_layer()))
    from_grad_cam("cam", type("Cam", (), {}))
    classifier = tiny_classifier()
    assert METHODS.make("layer").not_applicable(classifier) is None
    classifier.cam_layer = None
    for name in ("layer", "cam"):
        assert "declares no cam_layer; it has: conv1" in str(METHODS.make(name).not_applicable(classifier))


def test_draws_are_keyed_by_image_and_seed() -> None:
    def noise(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
        return torch.rand_like(x) + float(np.random.rand()) + random.random()

    from_callable("noise", noise, stochastic=True)
    classifier = tiny_classifier()
    maps = maps_of("noise", classifier)
    assert maps_of("noise", classifier, order=(2, 0, 1))[[1, 2, 0]].equal(maps)
    assert maps_of("noise", classifier, order=(1,)).equal(maps[1:2])
    assert not maps_of("noise", classifier, seed=1).equal(maps)
    explainer = Explainer(METHODS.make("noise(seed=1)"), classifier)
    assert explainer(tiny_batch(3, classifier).x, torch.zeros(3).long(), IDS).equal(maps_of("noise", classifier, seed=1))
    seeds = ImageRandom(0, IDS).integers("foreign", 2**32, ()).tolist()
    for seed, drawn in zip(seeds, maps, strict=True):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.rand((28, 28), generator=generator) + np.random.RandomState(seed).rand() + random.Random(seed).random()
        assert torch.allclose(drawn, expected)
    assert [setting.spec for setting in METHODS.make("noise").sweeps((1, 28, 28))["seeds"]][:2] == ["noise", "noise(seed=1)"]
    check_method("noise")


def test_a_stochastic_method_that_is_not_declared_so_is_found() -> None:
    from_callable("noise", lambda model, x, y: torch.rand_like(x))
    with pytest.raises(AssertionError, match="the maps depend on the seed, but the method has no parameter seed"):
        check_method("noise")


def test_batches_are_given_to_what_takes_them() -> None:
    sizes = []

    def record(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(x))
        return x

    from_callable("single", record)
    from_callable("batched", record, batchable=True)
    classifier = tiny_classifier()
    classifier.batch_size = 2
    maps_of("single", classifier)
    maps_of("batched", classifier)
    assert sizes == [1, 1, 1, 2, 1]


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x[:, 0],
        lambda x: x[:, :1],
        lambda x: x[:, 0].numpy(),
        lambda x: x[:, :1].double().numpy(),
        lambda x: x[:, 0].flip(2).numpy()[:, :, ::-1],
        lambda x: torch.cat([x[:, :1], 0 * x], 1),
    ],
    ids=["maps", "one channel", "numpy", "float64", "negative strides", "more channels"],
)
def test_maps_and_attributions_are_read(convert: Callable[[Tensor], Any]) -> None:
    from_callable("given", lambda model, x, y: convert(x))
    classifier = tiny_classifier((3, 32, 32))
    maps = maps_of("given", classifier)
    assert maps.equal(tiny_batch(3, classifier).x[:, 0])
    assert maps.dtype == torch.float32


@pytest.mark.parametrize(
    ("convert", "said"),
    [
        (lambda x: x[0, 0], r"a Tensor of torch.float32 and shape \(28, 28\)"),
        (lambda x: x[:, 0, :14], r"shape \(1, 14, 28\)"),
        (lambda x: x[:, :, :14], r"shape \(1, 1, 14, 28\)"),
        (lambda x: x.expand(2, -1, -1, -1), r"shape \(2, 1, 28, 28\)"),
        (lambda x: x.to(torch.complex64), "a Tensor of torch.complex64"),
        (lambda x: x.numpy().astype(object), "a ndarray of object"),
        (lambda x: (x, 0), "a tuple;"),
        (lambda x: x.tolist(), "a list;"),
        (lambda x: None, "a NoneType;"),
    ],
)
def test_anything_else_is_refused(convert: Callable[[Tensor], Any], said: str) -> None:
    from_callable("given", lambda model, x, y: convert(x), cost=Passes())
    with pytest.raises(XbenchError, match=rf"method 'given': the foreign code returned .*{said}.*valid are maps \(1, 28, 28\)"):
        maps_of("given", tiny_classifier())


@pytest.mark.parametrize("reduce", ["sum", "sum-abs", "max-abs"])
def test_channels_are_reduced_by_the_rule(reduce: Any) -> None:
    from_callable("given", lambda model, x, y: x - 0.5, reduce=reduce)
    classifier = tiny_classifier((3, 32, 32))
    maps, x = maps_of("given", classifier), tiny_batch(3, classifier).x - 0.5
    for i, row, column in ((0, 0, 0), (1, 5, 30), (2, 31, 7)):
        values = x[i, :, row, column].tolist()
        expected = {"sum": sum(values), "sum-abs": sum(map(abs, values)), "max-abs": max(map(abs, values))}[reduce]
        assert maps[i, row, column].item() == pytest.approx(expected, abs=1e-6)


def vandal(model: Classifier, x: Tensor, y: Tensor, fail: bool = False) -> Tensor:
    """Leaves everything behind that it can, and keeps the model alive."""
    maps = saliency(model, x, y)
    model.train().requires_grad_(True)
    model.module[0].register_forward_hook(lambda *_: model.module[0].bias * 0)
    model.module[2] = torch.nn.Identity()
    model.batch_size = 1
    with torch.no_grad():
        model.module[-1].weight.zero_()
    torch.set_grad_enabled(False)
    np.random.seed(0)
    if fail:
        raise RuntimeError("no luck")
    return maps


def test_the_classifier_is_left_as_found() -> None:
    from_callable("tidy", saliency)
    from_callable("vandal", vandal, fail=False)
    classifier = tiny_classifier()
    before, tidy = snapshot(classifier), maps_of("tidy", classifier)
    passes = classifier.passes.copy()
    assert maps_of("vandal", classifier).equal(tidy), "every image gets an intact copy"
    assert classifier.passes - passes == Passes(3 + 3, 3), "with the predictions of the batch"
    with pytest.raises(RuntimeError, match="no luck"):
        maps_of("vandal(fail=True)", classifier)
    assert changes(before, snapshot(classifier)) == []


def test_specs_make_the_method_again() -> None:
    made = from_captum("shap", GradientShap, n_samples=5, stdevs=0.1, baselines=lambda x: 0 * x, stochastic=True)
    for spec in ("shap", "shap(n_samples=7)", "shap(stdevs=0.2, seed=3)"):
        assert METHODS.make(spec).spec == spec
        assert METHODS.make(METHODS.make(spec).spec) == METHODS.make(spec)
    assert METHODS.make("shap") == made()
    assert METHODS.make("shap(n_samples=[1, [2]])").parameters["n_samples"] == (1, (2,))
    with pytest.raises(XbenchError, match="unknown parameter of shap 'n_sample'"):
        METHODS.make("shap(n_sample=3)")
    with pytest.raises(XbenchError, match=r"shap\(n_samples=...\): given \{1\}: a set is no plain value"):
        METHODS.make("shap(n_samples={1})")
    check_method("shap")


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (partial(from_callable, "My_Map", saliency), "method name 'My_Map' is malformed"),
        (partial(from_callable, "gradient", saliency), "method name 'gradient' is used twice"),
        (partial(from_callable, "mine", 3), "method 'mine': 3 is not callable"),
        (partial(from_callable, "mine", saliency, reduce="summ"), "unknown reduce of method 'mine' 'summ': did you mean 'sum'"),
        (partial(from_callable, "mine", saliency, label="x"), "every method has a 'label'"),
        (partial(from_callable, "mine", saliency, grid=torch.ones(2)), "parameter grid: a Tensor is no plain value"),
        (partial(from_callable, "mine", saliency, batchable=True, stochastic=True), "cannot be batchable and stochastic"),
        (
            partial(from_captum, "mine", Saliency(torch.nn.Identity())),
            "a Saliency is bound to one model already; give its class",
        ),
        (
            partial(from_callable, "mine", UNREADABLE),
            "the code of <lambda> cannot be read",
        ),
    ],
)
def test_what_cannot_be_adapted_is_refused(register: Callable[[], Any], message: str) -> None:
    with pytest.raises(XbenchError) as caught:
        register()
    assert message in str(caught.value)


def test_a_name_is_used_once_in_a_file() -> None:
    from_callable("mine", saliency)
    with pytest.raises(XbenchError, match="method name 'mine' is used twice"):
        from_callable("mine", saliency)


def test_a_cost_that_cannot_be_measured_has_to_be_given() -> None:
    def fails(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
        return x * (1 / float(x.sum()))

    from_callable("fails", fails)
    with pytest.raises(
        XbenchError, match=r"cannot be measured on a black image \(1, 28, 28\); give cost=.*: ZeroDivisionError"
    ):
        METHODS.make("fails").cost((1, 28, 28))

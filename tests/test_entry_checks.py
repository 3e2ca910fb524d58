"""The conformance checks of metrics, datasets and classifiers find every broken rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from scratch import findings, register, scratch_registries
from torch import Tensor, nn

from xbench import (
    CLASSIFIERS,
    DATASETS,
    METRICS,
    Classifier,
    ClassifierEntry,
    Column,
    Dataset,
    Metric,
    Scored,
    Subset,
    XbenchError,
)
from xbench.classifier import Passes
from xbench.testing import check_classifier, check_dataset, check_metric, tiny_classifier, tiny_images, tiny_transformer


@pytest.fixture(autouse=True)
def _scratch() -> Iterator[None]:
    with scratch_registries():
        yield


def register_metric(call: Callable[..., Any], **attributes: Any) -> str:
    usual = {
        "__doc__": "The mean of a map (own decision).",
        "__call__": lambda self, explainer, batch, maps: call(explainer, batch, maps),
        "cost": lambda self, method, classifier: Passes(),
        "columns": (Column("mean", "Mean", None),),
    }
    return register(METRICS, Metric, **{**usual, **attributes})


def mean(maps: Tensor) -> Scored:
    return Scored({"mean": maps.mean((1, 2))})


def nan_without_reason(_explainer: Any, _batch: Any, maps: Tensor) -> Scored:
    return Scored({"mean": maps.mean((1, 2)) / maps.std((1, 2))})


def test_a_metric_within_the_rules_passes() -> None:
    check_metric(register_metric(lambda explainer, batch, maps: mean(maps)))


@pytest.mark.parametrize(
    ("call", "attributes", "expected"),
    [
        (lambda e, b, m: Scored({"other": m.mean((1, 2))}), {}, "scores ['other'], the columns are ['mean']"),
        (lambda e, b, m: Scored({"mean": m.mean()[None]}), {}, "expected one value per image"),
        (lambda e, b, m: Scored({"mean": m.mean((1, 2)) / 0}), {}, "mean is infinite"),
        (
            lambda e, b, m: Scored({"mean": m.mean((1, 2)) * float("nan")}),
            {},
            "NaN for images [0, 1, 2], reasons are given for []",
        ),
        (
            lambda e, b, m: Scored({"mean": m.mean((1, 2))}, reasons={"mean": {1: "why"}}),
            {},
            "NaN for images [], reasons are given for [1]",
        ),
        (lambda e, b, m: Scored({"mean": m.mean((1, 2))}, {"curve": m[0, 0]}), {}, "curve 'curve' has shape (28,)"),
        (lambda e, b, m: mean(m + torch.rand(1)), {}, "two calls with the same seed give different mean"),
        (lambda e, b, m: mean(m - m.mean()), {}, "differs by"),
        (lambda e, b, m: mean(m.mul_(2)), {}, "changes the images or maps that it is given"),
        (lambda e, b, m: mean(e.maps(b)), {}, "Passes(forward=3, backward=3) counted for 3 images, cost() says"),
        (lambda e, b, m: mean(m), {"columns": ()}, "columns must be named and different"),
        (lambda e, b, m: mean(m), {"not_applicable": lambda self, m, c: "no"}, "applies to no registered method"),
        (nan_without_reason, {}, "maps of 0.0: mean is NaN for images [0, 1, 2]"),
    ],
)
def test_a_broken_metric_is_found(call: Callable[..., Any], attributes: dict[str, Any], expected: str) -> None:
    assert expected in findings(check_metric, register_metric(call, **attributes))


def register_dataset(**changes: Any) -> str:
    """24 tiny images in three parts, in which ``changes`` replaces the parts or the reader."""
    parts = {"train": range(8), "test": range(8, 24), "evaluation": range(8, 16), "heldout": range(16, 24), **changes}
    x = changes.get("x", tiny_images(24))

    def read(ids: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
        index = torch.tensor([int(i) for i in ids])
        boxes = changes.get("box", [[0.0, 1.0, 5.0, 28.0]])
        return (
            x[index] + changes.get("drift", 0) * torch.arange(len(x))[: len(ids), None, None, None],
            index % 4,
            [torch.tensor(boxes) for _ in ids],
        )

    def load(self: Any, part: str = "evaluation") -> Subset:
        if parts.get(part) is None:
            raise XbenchError(f"no part {part}")
        return Subset(
            "made", tuple(f"{i:02d}" for i in parts[part]), changes.get("shape", (1, 28, 28)), "tiny-4", "0" * 64, read
        )

    return register(DATASETS, Dataset, __doc__="Tiny images.", load=load)


@pytest.mark.parametrize("changes", [{}, {"train": None, "test": None}])
def test_a_dataset_within_the_rules_passes(changes: dict[str, Any]) -> None:
    check_dataset(register_dataset(**changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": range(10)}, "share 2 images, for instance '08'"),
        ({"heldout": range(15, 24)}, "share 1 images, for instance '15'"),
        ({"evaluation": [8, 9, 9]}, "evaluation: has no ids, or some twice"),
        ({"train": []}, "train: has no ids, or some twice"),
        ({"x": tiny_images(24) * 2}, "expected [0, 1]"),
        ({"x": tiny_images(24).double()}, "images are torch.float64"),
        ({"shape": (1, 32, 32)}, "of (8, 1, 32, 32)"),
        ({"drift": 1e-3}, "depend on the order of reading"),
        ({"box": [[0.0, 0.0, 5.0, 29.0]]}, "the boxes of '08' must be"),
        ({"box": [[3.0, 0.0, 3.0, 9.0]]}, "the boxes of '08' must be"),
    ],
)
def test_a_broken_dataset_is_found(changes: dict[str, Any], expected: str) -> None:
    assert expected in findings(check_dataset, register_dataset(**changes))


def register_classifier(change: Callable[[Classifier], Any]) -> str:
    def load(self: Any) -> Classifier:
        classifier = tiny_classifier((3, 32, 32))
        change(classifier)
        return classifier

    return register(CLASSIFIERS, ClassifierEntry, __doc__="A tiny network.", load=load)


class WithoutReset(nn.Linear):
    def reset_parameters(self) -> None:
        """Keeps the weights."""


def cannot_be_reset(classifier: Classifier) -> None:
    classifier.module.fc = WithoutReset(128, 4).requires_grad_(False)
    nn.init.constant_(classifier.module.fc.weight, 0.1)
    nn.init.constant_(classifier.module.fc.bias, 0.1)


def test_a_classifier_within_the_rules_passes() -> None:
    check_classifier(register_classifier(lambda classifier: None))


def test_a_transformer_within_the_rules_passes() -> None:
    register(CLASSIFIERS, ClassifierEntry, __doc__="A tiny transformer.", load=lambda self: tiny_transformer())
    check_classifier("made")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.module.relu1.train(), "is not in eval mode"),
        (lambda c: c.module.fc.requires_grad_(), "has parameters that require gradients"),
        (lambda c: setattr(c, "classes", 5), "logits have shape (2, 4) or are not finite, expected (2, 5)"),
        (lambda c: setattr(c, "cam_layer", "flatten"), "cam_layer 'flatten' gives [(2, 128)]"),
        (lambda c: setattr(c, "stages", (("fc",), ("conv2",))), "stages name the layer 'conv1' 0 times"),
        (lambda c: setattr(c, "stages", (("fc",), ("conv2", "fc"), ("conv1",))), "stages name the layer 'fc' 2 times"),
        (lambda c: nn.init.zeros_(c.module.fc.weight), "the gradient of a logit is not finite or does not reach"),
        (lambda c: nn.init.uniform_(c.module.fc.weight), "two loads give different weights_digests"),
        (lambda c: c.mean.fill_(1.5), "the mean pixel must be in [0, 1]"),
        (cannot_be_reset, "randomised() leaves as they are: fc"),
    ],
)
def test_a_broken_classifier_is_found(change: Callable[[Classifier], Any], expected: str) -> None:
    assert expected in findings(check_classifier, register_classifier(change))

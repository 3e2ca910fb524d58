"""Every registered entry passes the conformance checks: a file dropped in is tested without a line here.

Only an entry that reads files of the user's own needs one, that makes such files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import own_models
import pytest
import torch
import trees
from scratch import register, scratch_registries
from test_imagefolder import make_tree
from test_resnet20 import weights_file
from test_small_classifiers import made

from xbench import CLASSIFIERS, DATASETS, METHODS, METRICS, ClassifierEntry, Method, XbenchError
from xbench.classifier import Passes
from xbench.registry import Registry
from xbench.testing import (
    check,
    check_classifier,
    check_dataset,
    check_method,
    check_metric,
    tiny_batch,
    tiny_classifier,
    tiny_images,
)


def own_checkpoint(folder: Path) -> str:
    torch.save(own_models.state(), folder / "grey.pth")
    return f'checkpoint(path="{folder}/grey.pth", arch="own_models:grey", size=28, label_space="made")'


OWN_FILES: dict[str, Callable[[Path], str]] = {
    "checkpoint": own_checkpoint,
    "cifar10": lambda folder: f'cifar10(path="{trees.cifar_binary(folder, "cifar10")}")',
    "cifar100": lambda folder: f'cifar100(path="{trees.cifar_binary(folder, "cifar100")}")',
    "cub200": lambda folder: f'cub200(path="{trees.cub_tree(folder)}", size=32)',
    "fashion-mnist": lambda folder: f'fashion-mnist(path="{trees.fashion_tree(folder)}")',
    "imagefolder": lambda folder: f'imagefolder(path="{make_tree(folder)}")',
    "imagenet": lambda folder: f'imagenet(path="{trees.imagenet_tree(folder, flat=True)}", size=32)',
    "images": lambda folder: f'images(files="{trees.image_list(folder)}", label_space="pets")',
    "module": lambda folder: 'module(factory="own_models:grey", size=28, label_space="made")',
    "places365": lambda folder: f'places365(path="{trees.places_tree(folder)}", size=32)',
    "resnet20": lambda folder: f'resnet20(weights="{weights_file(folder / "net.safetensors")}")',
    "resnet8": lambda folder: made("resnet8", folder / "net.safetensors").spec,
    "subset": lambda folder: f'subset(file="{trees.subset_file(folder)}")',
    "vgg16-small": lambda folder: made("vgg16-small", folder / "net.safetensors").spec,
}
"""What to check of an entry that cannot do without files of the user's own: a spec with files made in a folder."""


def every(registry: Registry[Any]) -> Callable[..., Any]:
    return pytest.mark.parametrize("name", registry.names())


@every(METHODS)
def test_method(name: str) -> None:
    check_method(name)


@every(METRICS)
def test_metric(name: str) -> None:
    check_metric(name)


@every(DATASETS)
def test_dataset(name: str, tmp_path: Path) -> None:
    check_dataset(OWN_FILES[name](tmp_path) if name in OWN_FILES else name)


@every(CLASSIFIERS)
def test_classifier(name: str, tmp_path: Path) -> None:
    check_classifier(OWN_FILES[name](tmp_path) if name in OWN_FILES else name)


def test_check_finds_the_entry_in_any_registry() -> None:
    assert check("random") == "method"
    assert check("mnist") == "dataset"
    assert check("integrated-gradients(steps=2)") == "method"


def test_check_answers_an_unknown_name_with_the_nearest() -> None:
    with pytest.raises(XbenchError, match="unknown entry 'gradeint': did you mean 'gradient'"):
        check("gradeint")


def test_a_name_of_two_kinds_is_checked_as_both() -> None:
    with scratch_registries():
        for registry, base in ((METHODS, Method), (CLASSIFIERS, ClassifierEntry)):
            register(
                registry,
                base,
                __doc__="Sum of the channels (own decision).",
                __call__=lambda self, classifier, x, y, rng: x.sum(1),
                cost=lambda self, shape: Passes(),
                load=lambda self: tiny_classifier(),
            )
        assert check("made") == "method and classifier"


def test_an_entry_without_defaults_is_checked_by_its_spec() -> None:
    with scratch_registries():
        register(
            METHODS,
            Method,
            [("factor", float)],
            __doc__="Scaled sum of the channels (own decision).",
            __call__=lambda self, classifier, x, y, rng: self.factor * x.sum(1),
            cost=lambda self, shape: Passes(),
        )
        with pytest.raises(XbenchError, match=r"method 'made' has no default for factor: check it as made\(factor=\.\.\.\)"):
            check("made")
        assert check("made(factor=2.0)") == "method"


def test_tiny_things_are_the_same_every_time() -> None:
    assert tiny_classifier((3, 32, 32)).weights_digest == tiny_classifier((3, 32, 32)).weights_digest
    assert tiny_classifier(seed=1).weights_digest != tiny_classifier().weights_digest
    classifier = tiny_classifier((3, 32, 32)).double()
    batch = tiny_batch(5, classifier)
    assert batch.x.equal(tiny_images(5, (3, 32, 32)).double())
    assert len(set(batch.ids)) == len(batch) == len(batch.boxes or []) == 5
    assert batch.target.equal(classifier.probabilities(batch.x).argmax(1))

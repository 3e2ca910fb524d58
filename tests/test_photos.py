"""The photos and their classifier, against the selection rule, an independent bicubic reduction and broken installs."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from xbench import CLASSIFIERS, DATASETS, XbenchError
from xbench.datasets import photos
from xbench.models import efficientnet_lite
from xbench.run.plan import make_plan
from xbench.run.suite import load_suite
from xbench.store import Store


@pytest.fixture(scope="module")
def classifier():
    return CLASSIFIERS.make("efficientnet-lite").load()


@pytest.fixture(scope="module")
def everything():
    dataset = DATASETS.make("photos")
    return {part: dataset.load(part) for part in ("evaluation", "heldout")}


def test_committed_ids_are_what_the_rule_selects():
    assert photos.IDS.read_text() == photos.select()


def test_parts_split_the_twenty_photos_by_correct_and_confident(classifier, everything):
    for part, subset in everything.items():
        x, label, _ = subset.read(subset.ids)
        assert x.shape == (len(subset), *subset.shape) == (len(subset), *classifier.shape)
        assert (x.min() >= 0) & (x.max() <= 1)
        confidence, predicted = classifier.probabilities(x).max(1)
        good = (predicted == label) & (confidence > 0.5)
        assert good.all() if part == "evaluation" else not good.any()
        assert (subset.label_space, label.dtype) == (classifier.label_space, torch.int64)
    ids = everything["evaluation"].ids + everything["heldout"].ids
    assert sorted(ids) == [f"photos/{i:02d}" for i in range(20)]
    assert [len(subset) for subset in everything.values()] == [15, 5]


def test_every_photo_has_boxes_of_whole_pixels_inside_it(everything):
    counts = {}
    for subset in everything.values():
        _, _, boxes = subset.read(subset.ids)
        for image, each in zip(subset.ids, boxes, strict=True):
            assert each.dtype == torch.float32
            assert torch.equal(each, each.round())
            assert ((each[:, :2] >= 0) & (each[:, 2:] <= 224) & (each[:, 2:] - each[:, :2] >= 20)).all()
            assert len({tuple(box) for box in each.tolist()}) == len(each)
            counts[image[-2:]] = len(each)
    assert sum(counts.values()) == 44
    assert [image for image, count in counts.items() if count == max(counts.values())] == ["04"], "nine strawberries"


def test_objects_are_where_the_boxes_say(classifier, everything):
    """What remains of the class's probability without the boxes is far less than what remains without the rest."""
    subset = everything["evaluation"]
    x, label, boxes = subset.read(subset.ids)
    inside = torch.zeros(len(x), 1, 224, 224)
    for mask, each in zip(inside, boxes, strict=True):
        for x0, y0, x1, y1 in each.int().tolist():
            mask[:, y0:y1, x0:x1] = 1
    remain = {}
    for name, keep in (("boxes", inside), ("rest", 1 - inside)):
        p = classifier.probabilities(torch.lerp(classifier.gray, x, keep))
        remain[name] = p.gather(1, label[:, None])[:, 0]
    assert remain["boxes"].mean() > 0.7
    assert remain["rest"].mean() < 0.1
    assert (remain["boxes"] > remain["rest"]).all()


def test_boxes_are_pinned_by_the_digest(monkeypatch, tmp_path, everything):
    content = json.loads(photos.BOXES.read_text())
    assert list(content) == sorted(json.loads(photos.IDS.read_text())["photos"])
    content["photos/02"]["boxes"][0][0] += 1
    changed = tmp_path / "boxes.json"
    changed.write_text(json.dumps(content))
    monkeypatch.setattr(photos, "BOXES", changed)
    assert DATASETS.make("photos").load("heldout").digest() != everything["heldout"].digest()


def test_classifier_recognises_18_of_20(classifier, everything):
    correct = 0
    for subset in everything.values():
        x, label, _ = subset.read(subset.ids)
        correct += int((classifier.probabilities(x).argmax(1) == label).sum())
    assert correct == 18


def test_reading_depends_on_the_ids_alone(everything):
    subset = everything["evaluation"]
    x, label, _ = subset.read(subset.ids)
    again, label_again, _ = subset.read(["photos/05", "photos/01"])
    order = [subset.ids.index("photos/05"), subset.ids.index("photos/01")]
    assert torch.equal(again, x[order])
    assert torch.equal(label_again, label[order])


def test_names_tell_the_parts_apart_and_digests_pin_them(everything):
    evaluation, heldout = everything["evaluation"], everything["heldout"]
    assert (evaluation.name, heldout.name) == ("photos", "photos:heldout")
    assert evaluation.source_digest == heldout.source_digest
    assert evaluation.digest() != heldout.digest()


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -1/2."""
    d = np.abs(distance)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


def reduction(side: int, scale: float) -> np.ndarray:
    """Weights (224, side) of the centre 224 of side / scale output pixels over the input pixels."""
    centres = side / 2 + (np.arange(224) - 111.5) * scale
    weights = cubic((np.arange(side)[None] + 0.5 - centres[:, None]) / scale)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("image", ["photos/00", "photos/10"])  # 512 x 512 and 1024 x 683
def test_reduction_is_bicubic_to_256_with_the_centre_224_left(everything, image):
    record = json.loads(photos.IDS.read_text())["photos"][image]
    with Image.open(photos._folder() / record["file"]) as file:
        pixels = np.asarray(file.convert("RGB"), dtype=np.float64)
    scale = min(pixels.shape[:2]) / 256
    down, across = (reduction(side, scale) for side in pixels.shape[:2])
    rows = np.einsum("xj,ijc->ixc", across, pixels).round().clip(0, 255)  # Pillow keeps 8 bits between its two passes
    expected = np.einsum("yi,ixc->yxc", down, rows).clip(0, 255) / 255
    x, label, _ = everything["evaluation"].read([image])
    np.testing.assert_allclose(x[0].permute(1, 2, 0).numpy(), expected, atol=1 / 255)
    assert label.tolist() == [record["label"]]


def test_there_is_no_train_part():
    with pytest.raises(XbenchError, match="'train': valid: evaluation, heldout"):
        DATASETS.make("photos").load("train")


def test_foolbox_is_not_imported(everything):
    before = "foolbox" in sys.modules
    everything["evaluation"].read(["photos/00"])
    assert ("foolbox" in sys.modules) == before


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for kind, load in (
        ("dataset 'photos'", DATASETS.make("photos").load),
        ("classifier 'efficientnet-lite'", CLASSIFIERS.make("efficientnet-lite").load),
    ):
        with pytest.raises(XbenchError) as caught:
            load()
        assert str(caught.value) == f'{kind} needs the extra: pip install "xbench[photos]"'


def test_damaged_or_missing_photos_are_named(monkeypatch, tmp_path, everything):
    folder = tmp_path / "data"
    shutil.copytree(photos._folder(), folder)
    (folder / "imagenet_00_243.jpg").write_bytes((folder / "imagenet_00_243.jpg").read_bytes()[:2000])
    (folder / "imagenet_01_559.jpg").unlink()
    monkeypatch.setattr(photos, "_folder", lambda: folder)
    for image, file in (("photos/00", "imagenet_00_243.jpg"), ("photos/01", "imagenet_01_559.jpg")):
        with pytest.raises(XbenchError, match=str(folder / file)):
            everything["evaluation"].read([image])


def test_damaged_or_missing_weights_are_named(monkeypatch, tmp_path):
    file = tmp_path / "weights.pth"
    monkeypatch.setattr(efficientnet_lite, "_weights_file", lambda: file)
    for content in (None, b"PK"):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(XbenchError, match=str(file)):
            CLASSIFIERS.make("efficientnet-lite").load()


def test_normalisation(classifier):
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = classifier.module((255 * x - 127) / 128)
        torch.testing.assert_close(classifier(x), expected, atol=1e-4, rtol=1e-4)
    assert classifier.gray.flatten().tolist() == pytest.approx([127 / 255] * 3)


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    CLASSIFIERS.make("efficientnet-lite").load()
    assert torch.equal(torch.get_rng_state(), before)


def test_target_layer_is_the_last_convolution(classifier):
    convolutions = [layer for layer in classifier.module.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert classifier.target_layer() is convolutions[-1]
    assert classifier.target_layer().out_channels == 1280


def test_stages_hold_every_layer_once_from_the_output_down(classifier):
    layers = [name for name, layer in classifier.module.named_modules() if list(layer.parameters(recurse=False))]
    staged = [name for stage in classifier.stages for name in stage]
    assert len(classifier.stages) == 5
    assert classifier.stages[0] == ("_fc",)
    assert sorted(staged) == sorted(layers)
    # Within the blocks, whose order of definition is their order of execution, the list runs downwards.
    blocks = [name for name in staged if name.startswith("_blocks")]
    assert blocks == [name for name in reversed(layers) if name.startswith("_blocks")]
    assert staged[-1] == "_conv_stem"


def test_randomising_all_stages_renews_every_layer(classifier):
    staged = [name for stage in classifier.stages for name in stage]
    twin = classifier.randomised(staged, seed=0)
    trained = dict(classifier.module.named_modules())
    for name, layer in twin.module.named_modules():
        if name in staged:
            assert not torch.equal(layer.weight, trained[name].weight), name


def test_methods_that_would_have_to_be_trained_do_not_apply_and_the_others_are_planned(classifier, tmp_path):
    plan = make_plan(
        load_suite("sanity"),
        Store(tmp_path),
        methods=["vp", "gradient"],
        limit=2,
        classifier=classifier,
        dataset=DATASETS.make("photos"),
    )
    trained, gradient = plan.cells
    assert "trained methods need the training part of photos" in trained.not_applicable
    assert gradient.not_applicable == ""
    assert plan.todo == [gradient]
    assert plan.total_passes.backward > 0

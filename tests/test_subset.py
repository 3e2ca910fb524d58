"""Chosen images: what the command writes, what reading it gives, and what is said when the data are no longer the same."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image
from test_imagefolder import make_tree, noise, write_boxes

from xbench import DATASETS, XbenchError
from xbench.testing import check_dataset


def choose(xbench, folder, out, *words, **parameters):
    spec = DATASETS.get("imagefolder")(path=str(folder), **parameters).spec
    done = xbench("subset", spec, "--any", "--images", "2", "--heldout", "3", "--out", out, *words)
    assert done.status == 0, done.err
    return json.loads(out.read_text())


def load(file, part="evaluation", **parameters):
    return DATASETS.get("subset")(file=str(file), **parameters).load(part)


def test_parts_are_those_of_the_list_and_the_rest_is_the_datasets(xbench, tmp_path):
    listed = choose(xbench, make_tree(tmp_path / "images"), tmp_path / "two.json")
    base = DATASETS.make(listed["dataset"])
    test = base.load("test")
    assert listed["rule"] == "any"
    for part, count in (("evaluation", 2), ("heldout", 3)):
        subset = load(tmp_path / "two.json", part)
        assert list(subset.ids) == list(listed[part])
        assert len(subset) == count
        x, label, boxes = subset.read(subset.ids)
        own, own_label, _ = test.read(subset.ids)
        assert x.equal(own)
        assert label.tolist() == own_label.tolist() == [row[0] for row in listed[part].values()]
        assert boxes is None
    assert not set(listed["evaluation"]) & set(listed["heldout"])
    for part in ("train", "test"):
        assert load(tmp_path / "two.json", part).digest() == base.load(part).digest()
    assert load(tmp_path / "two.json").name == 'subset(file="two.json")'
    assert load(tmp_path / "two.json", "heldout").name == 'subset(file="two.json"):heldout'
    check_dataset(f'subset(file="{tmp_path}/two.json")')


def test_the_choice_depends_on_the_seed_only(xbench, tmp_path):
    make_tree(tmp_path / "images", images=10)
    one = choose(xbench, tmp_path / "images", tmp_path / "a.json")
    assert choose(xbench, tmp_path / "images", tmp_path / "b.json") == one
    assert choose(xbench, tmp_path / "images", tmp_path / "c.json", "--seed", "1")["evaluation"] != one["evaluation"]


@pytest.mark.parametrize("base", ["mnist", "mosaic(dataset='mnist', count=9)", "corrupted(dataset='mnist', kind='contrast')"])
def test_any_dataset_can_be_chosen_from(xbench, tmp_path, base):
    done = xbench("subset", base, "--any", "--images", "3", "--heldout", "2", "--out", tmp_path / "a.json")
    assert done.status == 0, done.err
    subset, test = load(tmp_path / "a.json"), DATASETS.make(base).load("test")
    assert len(subset) == 3
    assert subset.read(subset.ids)[0].equal(test.read(subset.ids)[0])
    with pytest.raises(XbenchError, match="has no parameter path to set"):
        load(tmp_path / "a.json", path="x")


def test_a_list_is_shared_with_a_machine_that_has_the_data_elsewhere(xbench, tmp_path):
    choose(xbench, make_tree(tmp_path / "here"), tmp_path / "two.json")
    digest = load(tmp_path / "two.json").digest()
    shutil.move(tmp_path / "here", tmp_path / "there")
    with pytest.raises(XbenchError, match=r"path .*/here does not exist"):
        load(tmp_path / "two.json")
    assert load(tmp_path / "two.json", path=str(tmp_path / "there")).digest() == digest


def test_what_is_not_listed_may_change(xbench, tmp_path):
    listed = choose(xbench, make_tree(tmp_path / "images", images=3), tmp_path / "two.json")
    digests = [load(tmp_path / "two.json", part).digest() for part in ("evaluation", "heldout")]
    chosen = {*listed["evaluation"], *listed["heldout"]}
    other = next(f"test/{name}/{i}.png" for name in ("cat", "dog") for i in range(3) if f"test/{name}/{i}.png" not in chosen)
    Image.fromarray(noise((32, 32), 99)).save(tmp_path / "images" / other)
    Image.fromarray(noise((32, 32), 98)).save(tmp_path / "images" / "test" / "cat" / "new.png")
    assert [load(tmp_path / "two.json", part).digest() for part in ("evaluation", "heldout")] == digests


def test_changed_pixels_labels_and_missing_images_are_named(xbench, tmp_path):
    listed = choose(xbench, make_tree(tmp_path / "images"), tmp_path / "two.json")
    first, second = listed["evaluation"]
    label = listed["evaluation"][first][0]
    path = tmp_path / "images" / first
    whole = path.read_bytes()
    Image.fromarray(noise((32, 32), 99)).save(path)
    with pytest.raises(XbenchError) as caught:
        load(tmp_path / "two.json")
    assert f"1 of 2 images are not those of the list any more: '{first}' ({first}: its file, pixels or boxes" in str(
        caught.value
    )
    path.write_bytes(whole)
    for part in ("train", "test"):
        (tmp_path / "images" / part / "bat").mkdir()
    with pytest.raises(XbenchError) as caught:
        load(tmp_path / "two.json")
    assert f"2 of 2 images are not those of the list any more: '{first}', '{second}'" in str(caught.value)
    assert f"{first}: its label was {label} and is {label + 1}" in str(caught.value)
    path.unlink()
    with pytest.raises(XbenchError, match=rf"lists 1 of 2 images that are not in .*: '{first}'; an id there is"):
        load(tmp_path / "two.json")


def test_changed_boxes_are_noticed(xbench, tmp_path):
    rows = [(f"test/{name}/{i}.png", 1, 2, 9, 9) for name in ("cat", "dog", "owl") for i in range(2)]
    boxes = write_boxes(tmp_path / "boxes.csv", *rows)
    choose(xbench, make_tree(tmp_path / "images"), tmp_path / "two.json", boxes=boxes)
    subset = load(tmp_path / "two.json")
    assert [each.tolist() for each in subset.read(subset.ids)[2]] == [[[1, 2, 9, 9]]] * 2
    write_boxes(tmp_path / "boxes.csv", *[(*row[:4], 10) for row in rows])
    with pytest.raises(XbenchError, match="2 of 2 images are not those of the list any more"):
        load(tmp_path / "two.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "is no list that xbench subset --out writes (JSONDecodeError"),
        ("[1]", "is no list that xbench subset --out writes (TypeError"),
        ('{"dataset": "mnist", "evaluation": ["mnist/0001"], "heldout": {}}', "is no list that xbench subset --out writes"),
        ('{"dataset": "mnist", "evaluation": {}, "heldout": {}}', "lists no image for evaluation"),
        (
            '{"dataset": "mnist", "evaluation": {"0001": [0, "a"]}, "heldout": {"0001": [0, "a"]}}',
            "lists '0001' for evaluation and for heldout",
        ),
        ('{"dataset": "minst", "evaluation": {"0001": [0, "a"]}, "heldout": {}}', "did you mean 'mnist'?"),
        (
            '{"dataset": "mnist", "evaluation": {"9999": [0, "a"]}, "heldout": {}}',
            "lists 1 of 1 images that are not in mnist:test",
        ),
    ],
)
def test_a_wrong_list_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "two.json").write_text(text)
    with pytest.raises(XbenchError) as caught:
        load(tmp_path / "two.json")
    assert message in str(caught.value)


def test_without_a_list_the_message_says_how_to_make_one():
    with pytest.raises(XbenchError, match="xbench subset DATASET --out FILE"):
        DATASETS.make("subset").load()


def test_too_few_images_are_named(xbench, tmp_path):
    make_tree(tmp_path / "images")
    done = xbench("subset", f'imagefolder(path="{tmp_path}/images")', "--any", "--images", "5", "--heldout", "2")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "only 6 images of" in done.err
    assert "7 were asked for" in done.err

"""The public data sets, from small trees in the layouts in which they come."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import torchvision
import trees
from PIL import Image

from xbench import DATASETS, XbenchError
from xbench.testing import check_dataset


def load(name, part="evaluation", **parameters):
    parameters = {key: value if isinstance(value, (int, float)) else str(value) for key, value in parameters.items()}
    return DATASETS.get(name)(**parameters).load(part)


def sums(monkeypatch, root, kind):
    """Lets torchvision take small files for the originals; it compares their md5 before it reads them."""
    for attribute in ("train_list", "test_list"):
        files = [name for name, _ in getattr(kind, attribute)]
        pairs = [[f, hashlib.md5((root / kind.base_folder / f).read_bytes()).hexdigest()] for f in files]
        monkeypatch.setattr(kind, attribute, pairs)
    file = root / kind.base_folder / kind.meta["filename"]
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": hashlib.md5(file.read_bytes()).hexdigest()})


@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist(tmp_path, below, zipped):
    trees.fashion_tree(tmp_path / below, zipped)
    for part, count in (("train", 12), ("test", 11), ("evaluation", 11)):
        subset = load("fashion-mnist", part, path=tmp_path)
        x, label, boxes = subset.read(subset.ids)
        assert (x * 255).round().byte().numpy().tolist() == trees.noise((count, 1, 28, 28), count).tolist()
        assert (label.tolist(), boxes) == ([i % 10 for i in range(count)], None)
    check_dataset(f'fashion-mnist(path="{tmp_path}")')
    assert subset.name == "fashion-mnist"


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(tmp_path, monkeypatch, name, version):
    folder, *files = trees.CIFAR[name]
    if version == "binary":
        trees.cifar_binary(tmp_path, name)
    else:
        trees.cifar_python(tmp_path, name)
        sums(monkeypatch, tmp_path, getattr(torchvision.datasets, name.upper()))
        folder = getattr(torchvision.datasets, name.upper()).base_folder
    for root in (tmp_path, tmp_path / folder):
        for part, own in (("train", files[0]), ("test", files[1])):
            subset = load(name, part, path=root)
            x, label, _ = subset.read(subset.ids[::-1])
            tables = [trees.cifar_table(name, file) for file in own]
            assert (x.flip(0) * 255).round().byte().numpy().tolist() == np.concatenate([t[0] for t in tables]).tolist()
            assert label.flip(0).tolist() == np.concatenate([t[1] for t in tables]).tolist()
            assert subset.label_space == f"cifar-{name.removeprefix('cifar')}"
    check_dataset(f'{name}(path="{tmp_path}")')


def test_a_file_of_cifar_that_is_not_the_original_is_not_unpickled(tmp_path, monkeypatch):
    trees.cifar_python(tmp_path, "cifar10")
    with pytest.raises(XbenchError, match=r"cifar-10-batches-py is not the original: Dataset not found or corrupted"):
        load("cifar10", path=tmp_path)


@pytest.mark.parametrize("flat", [False, True])
def test_imagenet(tmp_path, flat):
    trees.imagenet_tree(tmp_path, flat)
    subset = load("imagenet", path=tmp_path, size=32)
    x, label, boxes = subset.read(subset.ids)
    assert dict(zip((image[-6] for image in subset.ids), label.tolist(), strict=True)) == {
        "1": 999, "2": 0, "3": 400, "4": 400, "5": 0, "6": 999,
    }  # fmt: skip
    assert x.shape == (6, 3, 32, 32)
    assert boxes is None
    assert (subset.name, subset.label_space) == ("imagenet(size=32)", "imagenet-1k")
    check_dataset(f'imagenet(path="{tmp_path}", size=64)')


def test_photos_of_imagenet_are_reduced_as_usual(tmp_path):
    """The shorter side to 256, of which the centre 224 remain: the same square in one step."""
    trees.imagenet_tree(tmp_path, flat=True)
    subset = load("imagenet", path=tmp_path)
    file = Image.open(tmp_path / subset.ids[0])
    side = 48 * 224 / 256
    box = ((60 - side) / 2, (48 - side) / 2, (60 + side) / 2, (48 + side) / 2)
    expected = np.asarray(file.resize((224, 224), Image.Resampling.BICUBIC, box=box)).transpose(2, 0, 1)
    assert (subset.read(subset.ids[:1])[0][0] * 255).round().byte().numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["xml", "csv"])
def test_boxes_of_imagenet(tmp_path, kind):
    trees.imagenet_tree(tmp_path, flat=True)
    if kind == "xml":
        trees.voc_boxes(tmp_path / "boxes" / "val", "ILSVRC2012_val_00000002", (6, 0, 30, 24), (30, 24, 60, 48))
        boxes = tmp_path / "boxes"
    else:
        boxes = tmp_path / "LOC_val_solution.csv"
        rows = "ILSVRC2012_val_00000002,n01440764 6 0 30 24 n01440764 30 24 60 48 "
        boxes.write_text(f"ImageId,PredictionString\n{rows}\n")
    subset = load("imagenet", path=tmp_path, boxes=boxes, size=32, crop=1.0)
    truth = subset.read(subset.ids[:2])[2]
    assert truth[0].tolist() == []
    torch.testing.assert_close(truth[1], torch.tensor([[0, 0, 16, 16], [16, 16, 32, 32]]).float())


def test_places365(tmp_path):
    trees.places_tree(tmp_path)
    subset = load("places365", path=tmp_path, size=32)
    assert subset.read(subset.ids)[1].tolist() == [3, 364, 0]
    assert subset.ids[0] == "Places365_val_00000000.jpg"
    train = load("places365", "train", path=tmp_path, size=32)
    assert train.read(train.ids)[1].tolist() == [0, 7]
    assert train.ids == ("a/scene0/00000000.jpg", "a/scene7/00000007.jpg")
    check_dataset(f'places365(path="{tmp_path}", size=32)')


def test_cub200(tmp_path):
    trees.cub_tree(tmp_path / "CUB_200_2011")
    subset = load("cub200", path=tmp_path, size=32)
    _, label, boxes = subset.read(subset.ids)
    assert subset.ids == ("001.Bird/Bird_0.jpg", "200.Bird/Bird_3.jpg")
    assert label.tolist() == [0, 199]
    # 64 px of height become 32, of 80 px in width the middle 64 remain
    assert [box.tolist() for box in boxes] == [[[6, 8, 26, 24]], [[11, 5, 32, 32]]]
    assert load("cub200", "train", path=tmp_path / "CUB_200_2011", size=32).ids == (
        "001.Bird/Bird_1.jpg",
        "200.Bird/Bird_2.jpg",
    )
    check_dataset(f'cub200(path="{tmp_path}", size=32)')


def remove(name):
    return lambda root: (root / name).unlink()


def write(name, text):
    return lambda root: (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())


FASHION = trees.idx(np.zeros((3, 28, 28), np.uint8))


@pytest.mark.parametrize(
    ("name", "make", "damage", "message"),
    [
        ("fashion-mnist", trees.fashion_tree, remove("t10k-labels-idx1-ubyte.gz"), "t10k-labels-idx1-ubyte (or"),
        ("fashion-mnist", trees.fashion_tree, write("t10k-labels-idx1-ubyte.gz", b"x"), "cannot be read: Not a gzipped file"),
        ("fashion-mnist", trees.fashion_tree, write("t10k-images-idx3-ubyte", b"x"), "t10k-images-idx3-ubyte is no IDX file"),
        (
            "fashion-mnist",
            trees.fashion_tree,
            write("t10k-images-idx3-ubyte", FASHION[:-1]),
            "2351 bytes, 3x28x28 are declared",
        ),
        ("fashion-mnist", trees.fashion_tree, write("t10k-images-idx3-ubyte", FASHION), "hold 3 images and 11 labels"),
        (
            "fashion-mnist",
            trees.fashion_tree,
            write("t10k-labels-idx1-ubyte", trees.idx(np.full(11, 10, np.uint8))),
            "the label 10; valid are 0..9",
        ),
        (
            "cifar10",
            lambda root: root.mkdir(),
            lambda root: None,
            "cifar-10-python.tar.gz or cifar-10-batches-bin into a folder",
        ),
        (
            "cifar10",
            lambda root: trees.cifar_binary(root, "cifar10"),
            write("cifar-10-batches-bin/test_batch.bin", b"xy"),
            "2 bytes",
        ),
        (
            "cifar100",
            lambda root: trees.cifar_python(root, "cifar100"),
            remove("cifar-100-python/test"),
            "cifar-100-python/test does",
        ),
        ("imagenet", lambda root: root.mkdir(), lambda root: None, "val does not exist: unpack ILSVRC2012_img_val.tar there"),
        (
            "imagenet",
            lambda root: trees.imagenet_tree(root, classes=10),
            lambda root: None,
            "12 class folders, 1000 are expected",
        ),
        (
            "imagenet",
            lambda root: trees.imagenet_tree(root, flat=True),
            write("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", "1\n2\n"),
            "holds 6 images, the development kit 2 labels",
        ),
        (
            "imagenet",
            lambda root: trees.imagenet_tree(root, flat=True),
            write("ILSVRC2012_devkit_t12/data/meta.mat", "x"),
            "meta.mat cannot be read",
        ),
        (
            "imagenet",
            lambda root: trees.imagenet_tree(root, flat=True),
            write("val/ILSVRC2012_val_00000003.JPEG", "x"),
            "ILSVRC2012_val_00000003.JPEG cannot be read as an image: 1 bytes of no known format",
        ),
        (
            "imagenet",
            lambda root: trees.save(root / "val" / "a.JPEG"),
            lambda root: None,
            "does not exist: unpack ILSVRC2012_devkit_t12.tar.gz in",
        ),
        ("places365", trees.places_tree, remove("places365_val.txt"), "places365_val.txt cannot be read: No such file"),
        (
            "places365",
            trees.places_tree,
            remove("val_256/Places365_val_00000001.jpg"),
            "00000001.jpg cannot be read: No such file",
        ),
        ("places365", trees.places_tree, write("places365_val.txt", "a.jpg 365\n"), "gives a.jpg the label 365, of 0..364"),
        (
            "places365",
            trees.places_tree,
            write("places365_val.txt", "a.jpg\n"),
            "line 1: a name and a number expected, given 'a.jpg'",
        ),
        ("cub200", trees.cub_tree, remove("bounding_boxes.txt"), "bounding_boxes.txt cannot be read: No such file"),
        (
            "cub200",
            trees.cub_tree,
            write("image_class_labels.txt", "1 1\n2 1\n"),
            "has 2 images, images.txt 4: '3' is in one only",
        ),
        ("cub200", trees.cub_tree, write("images.txt", "1\n"), "line 1: 2 words expected, given '1'"),
        (
            "cub200",
            trees.cub_tree,
            write("bounding_boxes.txt", "1 a 1 1 1\n2 1 1 1 1\n3 1 1 1 1\n4 1 1 1 1\n"),
            "image 1 what is no number",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(tmp_path, name, make, damage, message):
    root = tmp_path / "data"
    make(root)
    damage(root)
    with pytest.raises(XbenchError) as caught:
        load(name, path=root)
    assert message in str(caught.value)
    assert f"dataset {name!r}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["imagenet", "places365", "cub200", "images", "imagefolder"])
def test_without_a_path_the_message_says_what_is_needed(name):
    with pytest.raises(XbenchError, match=rf"dataset '{name}' needs .*: ?{name}\((path|files)="):
        DATASETS.make(name).load()


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_a_download_that_fails_says_where_the_files_go(name, tmp_path, monkeypatch):
    def offline(*words, **options):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(XbenchError) as caught:
        DATASETS.make(f"{name}(download=True)").load()
    assert f"dataset {name!r} could not be downloaded" in str(caught.value)
    assert "put torchvision's files into" in str(caught.value)
    with pytest.raises(XbenchError, match="choose one: xbench subset"):
        DATASETS.make(name).load("heldout")

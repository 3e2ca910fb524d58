"""Class folders of images, against trees with known pixels, an independent bicubic reduction and damaged files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xbench import DATASETS, Subset, XbenchError
from xbench.testing import check_dataset

CLASSES = ("cat", "dog", "owl")


def noise(size: tuple[int, int], seed: int, channels: int = 3) -> np.ndarray:
    w, h = size
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, channels), dtype=np.uint8)
    return pixels if channels == 3 else pixels[..., 0]


def make_tree(
    root: Path, parts: tuple[str, ...] = ("train", "test"), images: int = 2, size: tuple[int, int] = (32, 32)
) -> Path:
    """``images`` PNGs of noise in each class folder of each part."""
    for part in parts:
        for label, name in enumerate(CLASSES):
            (root / part / name).mkdir(parents=True)
            for i in range(images):
                seed = (part == "train") * 1000 + label * 100 + i
                Image.fromarray(noise(size, seed)).save(root / part / name / f"{i}.png")
    return root


def picture(path: Path, size: tuple[int, int] = (4, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def load(path: Path, part: str = "evaluation", **parameters: object) -> Subset:
    return DATASETS.get("imagefolder")(path=str(path), **parameters).load(part)


def write_ids(path: Path, **parts: object) -> str:
    path.write_text(json.dumps(parts))
    return str(path)


def test_conforms(tmp_path):
    make_tree(tmp_path / "images")
    ids = write_ids(tmp_path / "ids.json", evaluation=["test/dog/1.png", "test/cat/0.png"], heldout=["test/owl/0.png"])
    check_dataset(f'imagefolder(path="{tmp_path}/images", ids="{ids}")')
    check_dataset(f'imagefolder(path="{tmp_path}/images", size=64, channels=1)')


def test_parts_hold_the_files_of_their_folders_class_after_class(tmp_path):
    make_tree(tmp_path)
    (tmp_path / "test" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "test" / "cat" / "._0.png").write_bytes(b"what macOS leaves")
    (tmp_path / "test" / ".cache").mkdir()
    for part, folder in (("train", "train"), ("test", "test"), ("evaluation", "test")):
        subset = load(tmp_path, part)
        assert list(subset.ids) == [f"{folder}/{name}/{i}.png" for i in (0, 1) for name in CLASSES]
        x, label, boxes = subset.read(subset.ids)
        assert (label.tolist(), boxes) == ([0, 1, 2, 0, 1, 2], None)
        for image, pixels in zip(subset.ids, x, strict=True):
            expected = np.asarray(Image.open(tmp_path / image)).transpose(2, 0, 1) / np.float32(255)
            np.testing.assert_array_equal(pixels.numpy(), expected)


@pytest.mark.parametrize(
    ("parts", "first"), [(("",), "cat/0.png"), (("val",), "val/cat/0.png"), (("test", "val"), "test/cat/0.png")]
)
def test_a_tree_without_a_train_folder_is_a_test_part(tmp_path, parts, first):
    make_tree(tmp_path, parts)
    assert load(tmp_path).ids == load(tmp_path, "test").ids
    assert load(tmp_path).ids[0] == first
    with pytest.raises(XbenchError, match="has no train part: it would be its folder train"):
        load(tmp_path, "train")


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "PNG", "bmp", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_every_format_and_mode_is_read(tmp_path, extension, mode):
    (tmp_path / "cat").mkdir()
    picture = Image.new("RGB", (8, 6), (255, 51, 0)).convert(mode)
    if mode in ("RGBA", "P") and extension in ("jpg", "JPEG", "bmp", "webp"):
        picture = picture.convert("RGB")
    picture.save(tmp_path / "cat" / f"a.{extension}")
    for channels in (3, 1):
        subset = load(tmp_path, channels=channels)
        x, _, _ = subset.read(subset.ids)
        grey = 255 * 0.299 + 51 * 0.587
        expected = [grey] if channels == 1 else [grey] * 3 if mode == "L" else [255, 51, 0]
        assert x.shape == (1, channels, 6, 8) == (1, *subset.shape)
        np.testing.assert_allclose(255 * x[0].mean((1, 2)), expected, atol=3.5)


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -1/2."""
    d = np.abs(distance)
    return np.where(d < 1, 1.5 * d**3 - 2.5 * d**2 + 1, np.where(d < 2, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, 0.0))


def reduction(side: int, size: int, scale: float) -> np.ndarray:
    """Weights (size, side) of the centre ``size`` output pixels, each ``scale`` input pixels wide, over the input pixels."""
    centres = side / 2 + (np.arange(size) - (size - 1) / 2) * scale
    weights = cubic((np.arange(side)[None] + 0.5 - centres[:, None]) / max(scale, 1.0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("given", "size", "shorter"),
    [((300, 200), 64, 64 * 256 / 224), ((200, 300), 112, 128), ((96, 130), 32, 32), ((50, 40), 63, 63), ((256, 256), 224, 256)],
)
def test_squares_are_the_centre_of_a_bicubic_reduction(tmp_path, given, size, shorter):
    (tmp_path / "cat").mkdir()
    pixels = noise(given, 0) // 2 + 64  # far from 0 and 255: clipping would show which pass Pillow makes first
    Image.fromarray(pixels).save(tmp_path / "cat" / "a.png")
    scale = min(given) / shorter
    down, across = (reduction(side, size, scale) for side in pixels.shape[:2])
    expected = np.einsum("yi,xj,ijc->cyx", down, across, pixels, optimize=True) / 255
    subset = load(tmp_path, size=size)
    x, _, _ = subset.read(subset.ids)
    np.testing.assert_allclose(x[0].numpy(), expected, atol=1.3 / 255)  # Pillow rounds twice


def test_an_image_of_the_size_stays_as_it_is(tmp_path):
    make_tree(tmp_path, ("",), size=(80, 80))
    own, same = load(tmp_path), load(tmp_path, size=80)
    assert own.read(own.ids)[0].equal(same.read(same.ids)[0])


def test_names_have_no_folders_in_them(tmp_path):
    make_tree(tmp_path / "birds")
    ids = write_ids(tmp_path / "ids.json", evaluation=["test/cat/0.png"], heldout=["test/cat/1.png"])
    assert load(tmp_path / "birds", ids=ids).name == 'imagefolder(path="birds", ids="ids.json")'
    assert load(tmp_path / "birds", "heldout", ids=ids).name == 'imagefolder(path="birds", ids="ids.json"):heldout'
    assert load(tmp_path / "birds" / "train" / "..", size=64).name == 'imagefolder(path="birds", size=64)'


def test_the_label_space_is_cifar_10_for_its_class_names_only(tmp_path):
    for name in ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"):
        picture(tmp_path / "ten" / name / "a.png")
    assert load(tmp_path / "ten").label_space == "cifar-10"
    first = load(make_tree(tmp_path / "three", ("",))).label_space
    assert first.startswith("classes-")
    assert load(tmp_path / "three", label_space="pets").label_space == "pets"
    (tmp_path / "three" / "newt").mkdir()
    assert load(tmp_path / "three").label_space != first


def test_the_digest_pins_pixels_labels_and_reading(tmp_path):
    """Whatever changes what is read changes it; where the tree lies and what else lies in it does not."""
    make_tree(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    ids = write_ids(tmp_path / "ids.json", evaluation=["test/cat/0.png", "test/dog/0.png"], heldout=["test/dog/1.png"])
    chosen = load(tmp_path / "a", ids=ids).digest()
    digests = [chosen, load(tmp_path / "a").digest(), load(tmp_path / "a", "train").digest()]
    assert load(tmp_path / "b", ids=ids).digest() == chosen
    digests += [load(tmp_path / "b", ids=ids, **other).digest() for other in ({"size": 32}, {"size": 64}, {"channels": 1})]
    Image.fromarray(noise((32, 32), 77)).save(tmp_path / "b" / "test" / "owl" / "0.png")
    assert load(tmp_path / "b", ids=ids).digest() == chosen
    Image.fromarray(noise((32, 32), 77)).save(tmp_path / "b" / "test" / "cat" / "0.png")
    digests.append(load(tmp_path / "b", ids=ids).digest())
    for part in ("train", "test"):
        (tmp_path / "a" / part / "bat").mkdir()  # every label is one higher
    digests.append(load(tmp_path / "a", ids=ids).digest())
    assert len(set(digests)) == len(digests)


def test_small_images_are_decoded_once(tmp_path, monkeypatch):
    make_tree(tmp_path)
    subset = load(tmp_path, "train")
    opened = []
    monkeypatch.setattr(Image, "open", lambda *words, inner=Image.open: opened.append(1) or inner(*words))
    x, _, _ = subset.read(subset.ids)
    kept = x.clone()
    x.zero_()  # what is kept is not what is handed out
    assert subset.read(subset.ids[::-1])[0].flip(0).equal(kept)
    assert len(opened) == len(subset) == 6


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "{path} cannot be read as an image: 0 bytes of no known format"),
        (lambda path: path.write_bytes(b"<html>"), "{path} cannot be read as an image: 6 bytes of no known format"),
        (lambda path: path.write_bytes(path.read_bytes()[:900]), "{path} cannot be read as an image: image file is truncated"),
        (lambda path: Image.new("I;16", (32, 32)).save(path), "{path} has more than 8 bits a channel (mode I;16)"),
        (lambda path: (path.unlink(), path.mkdir()), "{path} cannot be read: "),
        (lambda path: picture(path, (30, 32)), "test/cat/1.png has 30 x 32 pixels, test/cat/0.png has 32 x 32: give the size "),
    ],
)
def test_a_broken_image_is_named(tmp_path, damage, message):
    path = make_tree(tmp_path) / "test" / "cat" / "1.png"
    damage(path)
    with pytest.raises(XbenchError) as caught:
        load(tmp_path).read(["test/cat/1.png"])
    assert message.format(path=path) in str(caught.value)


@pytest.mark.parametrize("change", [lambda path: path.unlink(), picture])
def test_an_image_that_changes_after_loading_is_named(tmp_path, change):
    subset = load(make_tree(tmp_path))
    change(tmp_path / "test" / "cat" / "1.png")
    with pytest.raises(XbenchError, match=r"cat/1\.png (has changed since the dataset was loaded|cannot be read)"):
        subset.read(["test/cat/1.png"])


def test_an_unknown_id_is_named(tmp_path):
    make_tree(tmp_path)
    with pytest.raises(XbenchError, match=r"no image 'test/cat/7\.png' in this part; for instance 'test/cat/0\.png'"):
        load(tmp_path).read(["test/cat/0.png", "test/cat/7.png"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "is no JSON"),
        ("[1, 2]", 'must hold {"evaluation": [ids], "heldout": [ids]}'),
        ('{"evaluation": ["test/cat/0.png"]}', 'must hold {"evaluation": [ids], "heldout": [ids]}'),
        ('{"evaluation": [3], "heldout": []}', 'must hold {"evaluation": [ids], "heldout": [ids]}'),
        ('{"evaluation": [], "heldout": []}', "lists no image for evaluation"),
        (
            '{"evaluation": ["cat/0.png"], "heldout": ["test/cat/0.png"]}',
            "lists 1 of 2 images that are not in the test part of",
        ),
        (
            '{"evaluation": ["train/cat/0.png"], "heldout": []}',
            "'train/cat/0.png'; an id there is, for instance, 'test/cat/0.png'",
        ),
        ('{"evaluation": ["test/cat/0.png"], "heldout": ["test/cat/0.png"]}', "lists an image twice: 'test/cat/0.png'"),
    ],
)
def test_a_wrong_file_of_ids_is_named(tmp_path, content, message):
    make_tree(tmp_path / "images")
    path = tmp_path / "ids.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(XbenchError) as caught:
        load(tmp_path / "images", ids=str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_without_ids_there_is_no_heldout_part_and_the_message_says_how_to_make_one(tmp_path):
    make_tree(tmp_path)
    with pytest.raises(XbenchError) as caught:
        load(tmp_path, "heldout")
    assert f"xbench subset 'imagefolder(path=\"{tmp_path}\")' --classifier C > ids.json" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "path {root} does not exist"),
        (lambda root: root.write_bytes(b"PK"), "path {root} is no folder (unpack an archive first)"),
        (lambda root: root.mkdir(), "class folders of {root}, which holds no folders; expected PATH/CLASS/IMAGE"),
        (lambda root: picture(root / "a.png"), "class folders of {root}, which holds no folders; expected PATH/CLASS/IMAGE"),
        (
            lambda root: make_tree(root / "pets"),
            "class folders of {root}, which holds the folders pets; expected PATH/",
        ),
        (lambda root: make_tree(root, ("train",)), "{root} has a folder train but neither test nor val"),
        (
            lambda root: picture(make_tree(root) / "train" / "newt" / "a.png"),
            "{root}/train and {root}/test must have the same class folders; 'newt' is in one only",
        ),
    ],
)
def test_a_wrong_folder_is_named(tmp_path, make, message):
    make(tmp_path / "mine")
    with pytest.raises(XbenchError) as caught:
        load(tmp_path / "mine")
    assert message.format(root=tmp_path / "mine") in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("imagefolder", 'needs the folder of your images: imagefolder(path="FOLDER")'),
        ('imagefolder(path="x", size=0)', "size=0: must be at least 1, or None"),
        ('imagefolder(path="x", channels=2)', "imagefolder(channels=...): given 2"),
        ("imagefolder(path=3)", "imagefolder(path=...): given 3"),
        ('imagefolder("x")', "parameters are name=value"),
        ('imagefolder(folder="x")', "unknown parameter of imagefolder 'folder'"),
    ],
)
def test_a_wrong_parameter_is_named(spec, message):
    with pytest.raises(XbenchError) as caught:
        DATASETS.make(spec).load()
    assert message in str(caught.value)

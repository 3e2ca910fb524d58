"""Class folders of images, against trees with known pixels, an independent bicubic reduction and damaged files."""

from __future__ import annotations

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


def write_boxes(path: Path, *rows: tuple[object, ...]) -> str:
    path.write_text("\n".join(["file,x0,y0,x1,y1", *(",".join(map(str, row)) for row in rows)]))
    return str(path)


def load(path: Path, part: str = "evaluation", **parameters: object) -> Subset:
    return DATASETS.get("imagefolder")(path=str(path), **parameters).load(part)


def test_conforms(tmp_path):
    make_tree(tmp_path / "images")
    boxes = write_boxes(tmp_path / "boxes.csv", ("test/dog/1.png", 2, 3, 20, 30), ("test/cat/0.png", 0, 0, 31.5, 8))
    check_dataset(f'imagefolder(path="{tmp_path}/images", boxes="{boxes}")')
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
    boxes = write_boxes(tmp_path / "boxes.csv", ("cat/0.png", 1, 1, 2, 2))
    assert load(tmp_path / "birds", boxes=boxes).name == 'imagefolder(path="birds", boxes="boxes.csv")'
    assert load(tmp_path / "birds" / "train" / "..", "train", size=64).name == 'imagefolder(path="birds", size=64):train'


def test_the_label_space_is_cifar_10_for_its_class_names_only(tmp_path):
    for name in ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"):
        picture(tmp_path / "ten" / name / "a.png")
    assert load(tmp_path / "ten").label_space == "cifar-10"
    first = load(make_tree(tmp_path / "three", ("",))).label_space
    assert first.startswith("classes-")
    assert load(tmp_path / "three", label_space="pets").label_space == "pets"
    (tmp_path / "three" / "newt").mkdir()
    assert load(tmp_path / "three").label_space != first


def test_digest_and_checksums_pin_pixels_labels_boxes_and_reading(tmp_path):
    """Whatever changes what is read changes them; where the tree lies and what else lies in it does not."""
    make_tree(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")

    def both(root: Path, part: str = "test", **parameters: object) -> tuple[str, str]:
        subset = load(root, part, **parameters)
        return subset.digest(), subset.checksums(subset.ids[:1])[0]

    first = both(tmp_path / "a")
    assert both(tmp_path / "b") == first
    seen = [first, both(tmp_path / "a", "train")]
    seen += [
        both(tmp_path / "b", **other) for other in ({"size": 32}, {"size": 64}, {"size": 64, "crop": 0.9}, {"channels": 1})
    ]
    for x1 in (8, 9):
        boxes = write_boxes(tmp_path / "boxes.csv", ("test/cat/0.png", 2, 3, x1, 9))
        seen.append(both(tmp_path / "a", boxes=boxes))
    Image.fromarray(noise((32, 32), 77)).save(tmp_path / "b" / "test" / "owl" / "0.png")
    other_image = both(tmp_path / "b")
    assert other_image[0] != first[0]
    assert other_image[1] == first[1]
    Image.fromarray(noise((32, 32), 77)).save(tmp_path / "b" / "test" / "cat" / "0.png")
    seen.append(both(tmp_path / "b"))
    for part in ("train", "test"):
        (tmp_path / "a" / part / "bat").mkdir()  # every label is one higher
    seen.append(both(tmp_path / "a"))
    for values in zip(*seen, strict=True):
        assert len(set(values)) == len(seen)


def test_boxes_follow_their_image_and_are_none_outside_it(tmp_path):
    """A file of 64 x 32 px at size 16 shows the middle 32 x 32, two of its pixels a pixel; the corner is not seen."""
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "cat").mkdir(exist_ok=True)
        Image.fromarray(noise((64, 32), 0)).save(tmp_path / "cat" / name)
    boxes = write_boxes(
        tmp_path / "boxes.csv",
        ("a.png", 20, 4, 30, 20),
        ("cat/b.png", 0, 0, 40, 32),
        ("a.png", 32, 10, 64, 32),
        ("cat/b.png", 0, 0, 17, 32),
        ("elsewhere.png", 1, 1, 2, 2),
    )
    subset = load(tmp_path, boxes=boxes, size=16)
    truth = subset.read(subset.ids)[2]
    assert [each.tolist() for each in truth] == [[[2, 2, 7, 10], [8, 5, 16, 16]], [[0, 0, 12, 16]], []]
    assert truth[2].shape == (0, 4)


VOC = "<annotation><object><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>8</ymax></bndbox></object></annotation>"


@pytest.mark.parametrize("kind", ["csv", "imagenet", "voc"])
def test_boxes_are_read_in_three_formats(tmp_path, kind):
    (tmp_path / "images" / "cat").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / "cat" / name)
    path = tmp_path / "boxes"
    if kind == "voc":
        (path / "val").mkdir(parents=True)
        (path / "val" / "a.xml").write_text(VOC.format(5))
    elif kind == "imagenet":
        path.write_text("ImageId,PredictionString\na,n01440764 1 2 5 8 n01440764 0 0 2 2 \nb,\n")
    else:
        path.write_text("file,x0,y0,x1,y1\na,1,2,5,8\nb,,,,\n")
    subset = load(tmp_path / "images", boxes=str(path))
    truth = [each.tolist() for each in subset.read(subset.ids)[2]]
    assert truth == [[[1, 2, 5, 8], [0, 0, 2, 2]] if kind == "imagenet" else [[1, 2, 5, 8]], []]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("file,x0,y0,x1\n", "has no column y1; it has: file, x0, y0, x1"),
        ("file,x0,y0,x1,y1\n0.png,1,2,3\n", "line 2: 5 columns expected"),
        ("file,x0,y0,x1,y1\n0.png,1,2,x,4\n", "line 2: a box is four numbers x0, y0, x1, y1, given ['1', '2', 'x', '4']"),
        ("file,x0,y0,x1,y1\n0.png,9,2,3,4\n", "line 2: a box needs x0 < x1 and y0 < y1"),
        ("file,x0,y0,x1,y1\n0.png,1,2,3,4\n", "lists '0.png', which may be 'test/cat/0.png' or 'test/dog/0.png'"),
        ("file,x0,y0,x1,y1\nz.png,1,2,3,4\n", "lists none of the images: it has 'z.png', an image is 'test/cat/0.png'"),
    ],
)
def test_wrong_boxes_are_named(tmp_path, text, message):
    make_tree(tmp_path / "images")
    if text is not None:
        (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(XbenchError) as caught:
        load(tmp_path / "images", boxes=str(tmp_path / "boxes.csv"))
    assert message in str(caught.value)
    assert "boxes.csv" in str(caught.value)


def test_an_unknown_id_is_named(tmp_path):
    make_tree(tmp_path)
    with pytest.raises(XbenchError, match=r"no image 'test/cat/7\.png' in this part; for instance 'test/cat/0\.png'"):
        load(tmp_path).read(["test/cat/0.png", "test/cat/7.png"])


def test_there_is_no_heldout_part_and_the_message_says_how_to_make_one(tmp_path):
    make_tree(tmp_path)
    with pytest.raises(XbenchError) as caught:
        load(tmp_path, "heldout")
    assert f"xbench subset 'imagefolder(path=\"{tmp_path}\")' --classifier C --out subset.json, and run on" in str(caught.value)


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
        ('imagefolder(path="x", size=32, crop=1.5)', "crop=1.5: must be in (0, 1], or None"),
        ('imagefolder(path="x", crop=0.9)', "crop=0.9 needs a size"),
        ('imagefolder("x")', "parameters are name=value"),
        ('imagefolder(folder="x")', "unknown parameter of imagefolder 'folder'"),
    ],
)
def test_a_wrong_parameter_is_named(spec, message):
    with pytest.raises(XbenchError) as caught:
        DATASETS.make(spec).load()
    assert message in str(caught.value)

"""Lists of images, mosaics and corruptions, against their definitions written out, and against public implementations."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import skimage
import torch
import trees
from test_imagefolder import noise
from test_small_classifiers import made

from xbench import DATASETS, XbenchError
from xbench.datasets._corruptions import KINDS
from xbench.rng import ImageRandom
from xbench.testing import check_dataset, tiny_images


def write_list(root, text):
    for i in range(4):
        trees.save(root / f"{i}.png", (20, 16), i)
    (root / "list.csv").write_text(text)
    return root / "list.csv"


def images(path, part="evaluation", **parameters):
    return DATASETS.get("images")(files=str(path), label_space="pets", **parameters).load(part)


def test_a_list_of_images_is_read_as_it_says(tmp_path):
    path = write_list(
        tmp_path,
        "label,file,x0,y0,x1,y1,part\n5,2.png,1,2,9,8,test\n0,0.png,,,,,heldout\n5,2.png,0,0,20,16,test\n3,1.png,0,0,4,4,train\n",
    )
    subset = images(path, "test")
    x, label, boxes = subset.read(subset.ids)
    assert subset.ids == ("2.png", "0.png")
    assert label.tolist() == [5, 0]
    assert [box.tolist() for box in boxes] == [[[1, 2, 9, 8], [0, 0, 20, 16]], []]
    assert (x[0] * 255).round().byte().permute(1, 2, 0).numpy().tolist() == trees.noise((16, 20, 3), 2).tolist()
    parts = {part: images(path, part).ids for part in ("evaluation", "heldout", "train")}
    assert parts == {"evaluation": ("2.png", "0.png"), "heldout": ("0.png",), "train": ("1.png",)}
    path.write_text(path.read_text() + "1,3.png,0,0,1,1,evaluation\n")
    assert images(path).ids == ("3.png",)
    assert images(path).name == 'images(files="list.csv", label_space="pets")'


def test_a_list_conforms_and_may_lie_elsewhere(tmp_path):
    write_list(tmp_path / "data", "")
    path = tmp_path / "list.csv"
    path.write_text("file,label\n0.png,2\n3.png,0\n")
    elsewhere = DATASETS.get("images")(files=str(path), path=str(tmp_path / "data"), label_space="pets")
    assert elsewhere.load().read(["3.png"])[2] is None
    check_dataset(f'images(files="{path}", path="{tmp_path}/data", label_space="pets", size=8, channels=1)')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,lable\n", "has no column label; it has: file, lable"),
        ("file,label\n0.png,cat\n", "line 2: a label is a number from 0, given 'cat'"),
        ("file,label,part\n0.png,1,tset\n", "line 2: part 'tset' is none of"),
        ("file,label\n0.png,1\n0.png,2\n", "line 3: '0.png' had another label or part before"),
        ("file,label\n9.png,1\n", "9.png cannot be read: No such file"),
        ("file,label,x0\n0.png,1,2\n", "has no column y0, x1, y1"),
        ("file,label,part\n0.png,1,train\n", "lists no image for evaluation"),
    ],
)
def test_a_wrong_list_is_named(tmp_path, text, message):
    with pytest.raises(XbenchError) as caught:
        images(write_list(tmp_path, text))
    assert message in str(caught.value)


def test_boxes_reach_the_metric_and_an_image_without_one_has_no_score(xbench, tmp_path, monkeypatch):
    """One box a quarter of the image, one all of it, several, and none: from the list to the stored scores."""
    rows = ["0.png,1,0,0,10,8", "1.png,1,0,0,20,16", "2.png,1,,,,", "3.png,1,0,0,2,2", "3.png,1,0,0,20,16"]
    monkeypatch.chdir(write_list(tmp_path, "\n".join(["file,label,x0,y0,x1,y1", *rows])).parent)
    classifier = made("resnet8", tmp_path / "net.safetensors", label_space="pets", size=16).spec
    (tmp_path / "mine.toml").write_text(
        f"title = 't'\ndescription = 'd'\ndataset = 'mnist'\nclassifier = '{classifier}'\n"
        "methods = ['random']\n[[metrics]]\nspec = 'localisation(alpha=0.0)'\n"
    )
    data = 'images(files="list.csv", label_space="pets", size=16, crop=1.0)'
    done = xbench("run", "--suite", "mine.toml", "--dataset", data, "-c", classifier, "--store", "store")
    assert done.status == 0, done.err
    (part,) = (tmp_path / "store" / "results").rglob("part-000.json")
    content = json.loads(part.read_text())
    # The map is positive everywhere, so that its box is the image. Of 20 x 16 px the middle 16 x 16 are seen.
    assert dict(zip(content["ids"], content["scores"]["iou"], strict=True)) == {
        "0.png": pytest.approx(8 * 8 / 256, abs=0.02),
        "1.png": pytest.approx(1),
        "2.png": "nan",
        "3.png": pytest.approx(1),
    }
    assert content["reasons"]["iou"] == {"2.png": "no true box"}


@pytest.mark.parametrize("shrink", [False, True])
def test_a_mosaic_is_four_images_of_four_classes_and_its_box_that_of_the_label(shrink):
    dataset = DATASETS.get("mosaic")(count=12, shrink=shrink)
    subset, base = dataset.load(), DATASETS.make("mnist").load()
    x, label, boxes = subset.read(subset.ids)
    digits, classes, _ = base.read(base.ids)
    places = set()
    for image, own, box in zip(x, label, boxes, strict=True):
        x0, y0, x1, y1 = box[0].int().tolist()
        side = 14 if shrink else 28
        assert (x1 - x0, y1 - y0, x0 % side, y0 % side) == (side, side, 0, 0)
        places.add((x0, y0))
        found = []
        for top, left in ((0, 0), (0, side), (side, 0), (side, side)):
            tile = image[:, top : top + side, left : left + side]
            known = torch.nn.functional.avg_pool2d(digits, 2) if shrink else digits
            found.append(int(classes[(known - tile).abs().flatten(1).sum(1).argmin()]))
            if (left, top) == (x0, y0):
                assert (known - tile).abs().flatten(1).sum(1).min() < 1e-5
                assert found[-1] == int(own)
        assert len(set(found)) == 4
    assert len(places) == 4
    check_dataset(dataset.spec)


def test_mosaics_depend_on_seed_and_base_only(tmp_path):
    make = DATASETS.get("mosaic")
    assert make(count=3).load().digest() == make(count=3).load().digest()
    assert make(count=3).load().contents == dict(list(make(count=5).load().contents.items())[:3])
    assert make(count=3).load().digest() != make(count=3, seed=1).load().digest() != make(count=3, shrink=True).load().digest()
    assert make(count=3).load("train").name == "mosaic(count=3):train"
    trees.fashion_tree(tmp_path)
    assert make(dataset=f'fashion-mnist(path="{tmp_path}")').load().name == 'mosaic(dataset="fashion-mnist")'


def test_a_mosaic_needs_four_classes(tmp_path):
    path = write_list(tmp_path, "file,label\n0.png,0\n1.png,1\n2.png,2\n")
    spec = DATASETS.get("images")(files=str(path), label_space="pets").spec
    with pytest.raises(XbenchError, match="has images of 3 classes, four are needed"):
        DATASETS.get("mosaic")(dataset=spec).load()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_corruption_conforms_and_grows_with_its_severity(kind):
    base = DATASETS.make("mnist").load()
    x, label, boxes = base.read(base.ids[:40])
    distances = []
    for severity in range(1, 6):
        subset = DATASETS.get("corrupted")(kind=kind, severity=severity).load()
        corrupted, own, own_boxes = subset.read(base.ids[:40])
        distances.append(float((corrupted - x).square().mean()))
        assert own.equal(label)
        assert all(a.equal(b) for a, b in zip(own_boxes, boxes, strict=True))
        assert corrupted.shape == x.shape
    assert distances == sorted(distances)
    assert distances[0] < 0.8 * distances[-1]
    assert subset.digest() != base.digest()
    check_dataset(f"corrupted(kind='{kind}')")


def by_hand(kind, constant, image):
    """One image (h, w, 3) in [0, 1], as ImageNet-C's authors' text and libraries have it."""
    if kind == "brightness":
        hsv = skimage.color.rgb2hsv(image)
        hsv[..., 2] = np.clip(hsv[..., 2] + constant, 0, 1)
        return skimage.color.hsv2rgb(hsv)
    if kind == "contrast":
        mean = image.mean((0, 1))
        return np.clip((image - mean) * constant + mean, 0, 1)
    radius, softness = constant
    reach = max(8, int(radius))
    disk = np.array([[float(i * i + j * j <= radius**2) for j in range(-reach, reach + 1)] for i in range(-reach, reach + 1)])
    kernel = cv2.GaussianBlur(disk / disk.sum(), (3, 3) if radius <= 8 else (5, 5), softness)
    return cv2.filter2D(image, -1, kernel)


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("kind", ["brightness", "contrast", "defocus_blur"])
def test_a_corruption_without_draws_is_that_of_the_definition(kind, severity):
    x = torch.cat(
        [
            tiny_images(1, (3, 48, 40)),
            torch.zeros(1, 3, 48, 40),
            torch.from_numpy(noise((40, 48), 1)).permute(2, 0, 1)[None] / 255,
        ]
    )
    apply, imagenet, cifar = KINDS[kind]
    for constants in (imagenet, cifar):
        out = apply(x, constants[severity - 1], ImageRandom(0, ["a", "b", "c"])).clamp(0, 1)
        for one, image in zip(out, x, strict=True):
            expected = by_hand(kind, constants[severity - 1], image.permute(1, 2, 0).double().numpy())
            np.testing.assert_allclose(one.permute(1, 2, 0).numpy(), expected, atol=2e-6)


def test_noise_has_the_declared_strength():
    x, ids = torch.full((30, 1, 40, 40), 0.5), [str(i) for i in range(30)]
    rng = ImageRandom(0, ids)
    gaussian = KINDS["gaussian_noise"][0](x, 0.1, rng) - x
    assert float(gaussian.std()) == pytest.approx(0.1, rel=0.02)
    assert float(gaussian.mean()) == pytest.approx(0, abs=0.002)
    shot = KINDS["shot_noise"][0](x, 50, rng)
    assert float(shot.var()) == pytest.approx(0.5 / 50, rel=0.05)
    assert float((shot * 50).frac().abs().max()) < 1e-4
    impulse = KINDS["impulse_noise"][0](x, 0.06, rng)
    assert [float((impulse == v).float().mean()) for v in (0, 1)] == pytest.approx([0.03, 0.03], abs=0.004)


def test_motion_blur_is_half_a_gaussian_along_a_line():
    """A bright column: at an angle a its trace has the weights at steps whose rounded sine or cosine is the distance."""
    x = torch.zeros(1, 1, 64, 64)
    x[0, 0, 32, 32] = 1
    rng = ImageRandom(0, ["a"])
    out = KINDS["motion_blur"][0](x, (10, 3), rng)[0, 0]
    angle = np.deg2rad(90 * float(rng.uniform("motion_blur", (1,))) - 45)
    weights = np.exp(-(np.arange(21) ** 2) / 18)
    expected = np.zeros((64, 64))
    for i, weight in enumerate(weights / weights.sum()):
        expected[32 - int(np.ceil(np.sin(angle) * i - 0.5)), 32 - int(np.ceil(np.cos(angle) * i - 0.5))] += weight
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-6)
    constant = torch.full((2, 3, 30, 30), 0.3)
    torch.testing.assert_close(KINDS["motion_blur"][0](constant, (20, 15), ImageRandom(0, ["a", "b"])), constant)


def test_large_images_have_imagenets_constants(tmp_path):
    path = write_list(tmp_path, "file,label\n0.png,0\n1.png,1\n")
    for size, constant in ((64, 0.5), (65, 0.3)):
        spec = DATASETS.get("images")(files=str(path), label_space="pets", size=size).spec
        x, _, _ = DATASETS.make(spec).load().read(["0.png"])
        out, _, _ = DATASETS.get("corrupted")(dataset=spec, kind="contrast", severity=2).load().read(["0.png"])
        assert float(out.std(unbiased=False) / x.std(unbiased=False)) == pytest.approx(constant, rel=0.02)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("corrupted(kind='nosie')", "unknown kind 'nosie'"),
        ("corrupted(kind='gaussian_nose')", "did you mean 'gaussian_noise'?"),
        ("corrupted(severity=0)", "severity=0: valid are 1..5"),
        ("corrupted(dataset='minst')", "did you mean 'mnist'?"),
        ("mosaic(count=0)", "count=0: must be at least 1"),
        ("images(files='x.csv')", "needs a list and what its labels mean"),
        ("images(files='x.csv', label_space='pets')", "x.csv cannot be read: No such file"),
    ],
)
def test_a_wrong_parameter_is_named(spec, message):
    with pytest.raises(XbenchError) as caught:
        DATASETS.make(spec).load()
    assert message in str(caught.value)

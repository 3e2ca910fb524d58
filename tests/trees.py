"""Small data sets in the layouts in which the public ones come."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from xbench import DATASETS


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, size: tuple[int, int] = (60, 48), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise((size[1], size[0], 3), seed)).save(path)
    return path


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def fashion_tree(root: Path, zipped: bool = True) -> Path:
    """12 images to train on and 11 to test, labels 0, 1, ..., 9, 0, 1."""
    root.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", 12), ("t10k", 11)):
        for name, array in (
            (f"{prefix}-images-idx3-ubyte", noise((count, 28, 28), count)),
            (f"{prefix}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10),
        ):
            if zipped:
                (root / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (root / name).write_bytes(idx(array))
    return root


CIFAR = {
    "cifar10": ("cifar-10-batches-bin", [f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]),
    "cifar100": ("cifar-100-binary", ["train.bin"], ["test.bin"]),
}


def cifar_table(name: str, file: str) -> tuple[np.ndarray, np.ndarray]:
    """The four images (4, 3, 32, 32) and labels of a file."""
    classes = int(name.removeprefix("cifar"))
    return noise((4, 3, 32, 32), len(file) + sum(map(ord, file))), np.arange(4, dtype=np.uint8) * (classes // 4)


def cifar_binary(root: Path, name: str) -> Path:
    folder, *parts = CIFAR[name]
    (root / folder).mkdir(parents=True)
    for file in parts[0] + parts[1]:
        images, labels = cifar_table(name, file)
        before = [labels // 5, labels] if name == "cifar100" else [labels]
        (root / folder / file).write_bytes(np.column_stack([*before, images.reshape(4, -1)]).tobytes())
    return root


def cifar_python(root: Path, name: str) -> Path:
    """The Python version, as torchvision unpacks it, with the binary version's content."""
    folder, files = {
        "cifar10": ("cifar-10-batches-py", {f"data_batch_{i}": f"data_batch_{i}.bin" for i in range(1, 6)}),
        "cifar100": ("cifar-100-python", {"train": "train.bin"}),
    }[name]
    files |= {"test_batch": "test_batch.bin"} if name == "cifar10" else {"test": "test.bin"}
    (root / folder).mkdir(parents=True)
    for file, content in files.items():
        images, labels = cifar_table(name, content)
        key = "labels" if name == "cifar10" else "fine_labels"
        (root / folder / file).write_bytes(pickle.dumps({"data": images.reshape(4, -1), key: labels.tolist()}))
    meta, names = ("batches.meta", "label_names") if name == "cifar10" else ("meta", "fine_label_names")
    (root / folder / meta).write_bytes(pickle.dumps({names: ["a"]}))
    return root


def wnid(i: int) -> str:
    return f"n{1_000_000 + 7 * i:08d}"


def imagenet_tree(root: Path, flat: bool = False, classes: int = 1000) -> Path:
    """Six photos of the classes 0, 400 and 999; the development kit numbers classes from the last to the first."""
    (root / "val").mkdir(parents=True)
    labels = [999, 0, 400, 400, 0, 999]
    if not flat:
        for i in range(classes):
            (root / "val" / wnid(i)).mkdir()
    for i, label in enumerate(labels):
        name = f"ILSVRC2012_val_{i + 1:08d}.JPEG"
        save(root / "val" / name if flat else root / "val" / wnid(label) / name, seed=i)
    if flat:
        kit = root / "ILSVRC2012_devkit_t12" / "data"
        kit.mkdir(parents=True)
        (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{1000 - label}\n" for label in labels))
        kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("num_children", "i4")]
        rows = [(1000 - i, wnid(i), 0) for i in range(1000)] + [(1001, "n00000001", 1000)]
        scipy.io.savemat(kit / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})
    return root


def voc_boxes(root: Path, name: str, *boxes: tuple[int, int, int, int]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    objects = "".join(
        f"<object><name>n01440764</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    )
    (root / f"{name}.xml").write_text(f"<annotation><filename>{name}</filename>{objects}</annotation>")
    return root


def places_tree(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "categories_places365.txt").write_text("".join(f"/{'abc'[i // 122]}/scene{i} {i}\n" for i in range(365)))
    files = {f"Places365_val_{i:08d}.jpg": label for i, label in enumerate((3, 364, 0))}
    for i, name in enumerate(files):
        save(root / "val_256" / name, seed=i)
    (root / "places365_val.txt").write_text("".join(f"{name} {label}\n" for name, label in files.items()))
    train = {f"/a/scene{i}/{i:08d}.jpg": i for i in (0, 7)}
    for name in train:
        save(root / "data_256_standard" / name[1:], seed=9)
    (root / "places365_train_standard.txt").write_text("".join(f"{name} {label}\n" for name, label in train.items()))
    return root


def cub_tree(root: Path) -> Path:
    """Four birds, of which the second and the third are to train on."""
    names = [f"{label:03d}.Bird/Bird_{i}.jpg" for i, label in enumerate((1, 1, 200, 200))]
    for i, name in enumerate(names):
        save(root / "images" / name, (80, 64), seed=i)
    tables = {
        "images.txt": names,
        "image_class_labels.txt": ["1", "1", "200", "200"],
        "train_test_split.txt": ["0", "1", "1", "0"],
        "bounding_boxes.txt": ["20.0 16.0 40.0 32.0", "0.0 0.0 80.0 64.0", "8.0 8.0 16.0 8.0", "30.0 10.0 50.0 54.0"],
    }
    for file, rows in tables.items():
        (root / file).write_text("".join(f"{i + 1} {row}\n" for i, row in enumerate(rows)))
    return root


def segmentations(root: Path, *numbers: int) -> dict[int, np.ndarray]:
    """CUB's masks for some of the four birds: the share of five annotators, in steps of 51; returned as arrays (64, 80)."""
    votes = {i: np.random.default_rng(i).integers(0, 6, (64, 80), dtype=np.uint8) * np.uint8(51) for i in numbers}
    for i, array in votes.items():
        path = root / f"{(1, 1, 200, 200)[i]:03d}.Bird" / f"Bird_{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    return votes


def image_list(root: Path) -> Path:
    """A CSV of three images with a box, two boxes and none."""
    for i in range(3):
        save(root / f"{i}.png", seed=i)
    rows = ["0.png,4,1,2,30,40", "1.png,0,0,0,60,48", "1.png,0,5,5,9,9", "2.png,1,,,,"]
    (root / "list.csv").write_text("\n".join(["file,label,x0,y0,x1,y1", *rows]) + "\n")
    return root / "list.csv"


def subset_file(root: Path) -> Path:
    """A list of three of mnist's digits to evaluate and two held out."""
    test = DATASETS.make("mnist").load("test")
    parts = {"evaluation": test.listing(test.ids[3:6]), "heldout": test.listing(test.ids[:2])}
    (root / "subset.json").write_text(json.dumps({"dataset": "mnist", **parts}))
    return root / "subset.json"

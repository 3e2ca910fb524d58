"""Memory while many 224-px images are read and explained: python benchmarks/memory.py N.

Makes N synthetic JPEG files in a folder (kept with --folder, else temporary), then, in this process, hashes them, reads all
of them twice (decoded into the cache, then from it), and runs a suite of one cheap method and metric on them, with a small
random classifier. Prints the seconds and the peak of resident memory so far, above what it was with the classifier in use.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console

from xbench import CLASSIFIERS, DATASETS, Classifier, ClassifierEntry
from xbench.run.machine import measured_speed
from xbench.run.plan import make_plan
from xbench.run.progress import Progress
from xbench.run.runner import run
from xbench.run.suite import load_suite
from xbench.store import Store
from xbench.subset import chunked
from xbench.testing import tiny_classifier, tiny_images

SHAPE = (3, 224, 224)
SUITE = """
title = "Memory"
description = "One cheap cell."
dataset = {dataset!r}
classifier = "benchmark-tiny"
methods = ["gradient"]
[[metrics]]
spec = "saliency-metric(alpha=0.5)"
"""


@CLASSIFIERS.register("benchmark-tiny")
@dataclass(frozen=True)
class Tiny(ClassifierEntry):
    """A small random network of four classes."""

    def load(self) -> Classifier:
        """The same every time."""
        return tiny_classifier(SHAPE)


def make_images(folder: Path, count: int) -> None:
    """Smooth random JPEG files in four class folders; those that are there stay."""
    for start in range(0, count, 100):
        paths = [folder / f"class{i % 4}" / f"{i:06d}.jpg" for i in range(start, min(start + 100, count))]
        if all(path.exists() for path in paths):
            continue
        for path, image in zip(paths, tiny_images(len(paths), SHAPE, seed=start), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(path)


def peak() -> float:
    """The largest resident memory of this process so far, MiB."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Measures step by step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=int, metavar="N", help="number of images")
    parser.add_argument("--folder", type=Path, help="where to keep images, cache and store (N x 0.4 MB); temporary by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(options.images, options.folder or Path(temporary))


def measure(count: int, folder: Path) -> None:
    """Prints a row a step."""
    os.environ["XBENCH_CACHE"] = str(folder / "cache")
    make_images(folder / "images", count)
    classifier = tiny_classifier(SHAPE)
    x = tiny_images(4, SHAPE).requires_grad_()
    torch.autograd.grad(classifier(x).sum(), x)
    dataset = DATASETS.get("imagefolder")(path=str(folder / "images"), size=224, label_space="tiny-4")  # type: ignore[call-arg]
    (folder / "memory.toml").write_text(SUITE.format(dataset=dataset.spec))

    def read() -> None:
        subset = dataset.load()
        for ids in chunked(subset.ids):
            subset.read(ids)

    def explain() -> None:
        plan = make_plan(load_suite(str(folder / "memory.toml")), Store(folder / "store"))
        with Progress(plan, measured_speed(plan.classifier), Console(quiet=True)) as progress:
            results = run(plan, progress)
        assert [result.status for result in results] == ["ok"], results[0].reason

    steps: dict[str, Callable[[], object]] = {
        "hash the files": dataset.load,
        "decode into the cache": read,
        "read from the cache": read,
        "explain and score": explain,
    }
    before = peak()
    print(f"{count} images; with the classifier loaded {before:.0f} MiB\n\n| step | seconds | peak above that, MiB |")
    print("| --- | --- | --- |")
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        print(f"| {name} | {time.perf_counter() - start:.1f} | {peak() - before:.0f} |", flush=True)


if __name__ == "__main__":
    main()

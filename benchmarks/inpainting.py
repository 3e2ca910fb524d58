"""How well the fills restore missing pixels: PSNR and LPIPS on held-out images, with intervals and paired differences.

python benchmarks/inpainting.py --lpips-backbone FILE
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from xbench import CLASSIFIERS, DATASETS, ImageRandom
from xbench.classifier import Classifier
from xbench.fill import make_filler
from xbench.methods.lime import Lime
from xbench.ops.holes import HOLES
from xbench.ops.segments import superpixels
from xbench.perceptual import BACKBONE, lpips_distance
from xbench.types import Images, Masks

FILLS = ("mean", "biharmonic", "telea", "linear", "local-mean")
REFERENCES = ("biharmonic", "telea")
SHARES = {"rectangles": 0.25, "strokes": 0.25, "cells": 0.5}
DIGITS = {"PSNR, dB": 2, "LPIPS": 3}
RESAMPLES = 10000


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist", help="whose test part is restored, by spec")
    parser.add_argument("--images", type=int, default=200, help="how many of it, in a seeded order")
    parser.add_argument("--inpainter", default="inpaint", help="the learned fill, e.g. inpaint:FILE:SHA256")
    parser.add_argument("--lpips-backbone", type=Path, help=BACKBONE)
    options = parser.parse_args()
    if options.lpips_backbone is None:
        print(f"LPIPS is left out; for it give --lpips-backbone FILE, {BACKBONE}.\n")
    distance = None if options.lpips_backbone is None else lpips_distance(options.lpips_backbone)

    entry = DATASETS.make(options.dataset)
    classifier = CLASSIFIERS.make(entry.classifier).load()
    test = entry.load("test")
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[: options.images]
    ids = [test.ids[i] for i in order.tolist()]
    x = test.read(ids)[0]
    draws = torch.randint(len(ids), (RESAMPLES, len(ids)), generator=torch.Generator().manual_seed(0))
    fills = (*FILLS, options.inpainter)
    rows, differences = [], []
    for kind, keep in masks(classifier, x, ids).items():
        missing = (1 - keep).mean()
        restored = {spec: composite(spec, classifier, x, keep, ids) for spec in fills}
        samples = {"PSNR, dB": {spec: psnr(image, x, keep, draws) for spec, image in restored.items()}}
        if distance is not None:
            samples["LPIPS"] = {spec: mean(distance(image, x), draws) for spec, image in restored.items()}
        for spec in fills:
            rows.append([kind, f"{missing:.0%}", spec, *(interval(of[spec], DIGITS[name]) for name, of in samples.items())])
        for other in REFERENCES:
            gains = (interval(of[options.inpainter] - of[other], DIGITS[name], "+") for name, of in samples.items())
            differences.append([kind, other, *gains])
    print(f"{len(ids)} images of {test.name}\n")
    table(["holes", "missing", "fill", *samples], rows)
    print(f"\n{options.inpainter} minus the other, paired by image\n")
    table(["holes", "other", *samples], differences)


def masks(classifier: Classifier, x: Images, ids: list[str]) -> dict[str, Masks]:
    """Keep masks (n, 1, h, w) by kind of hole: those of `xbench.ops.holes`, and half of LIME's superpixels."""
    rng, size = ImageRandom(1, ids), (x.shape[2], x.shape[3])
    found = {kind: make(rng.uniform, size, torch.full((len(ids),), SHARES[kind])) for kind, make in HOLES.items()}
    lime = Lime().resolved(classifier.shape)
    labels = superpixels(x, lime.segments, lime.sigma, lime.compactness)
    kept = rng.uniform("superpixels", (int(labels.max()) + 1,)) < 0.5
    return found | {"superpixels": kept.gather(1, labels).view(-1, 1, *size).float()}


def composite(spec: str, classifier: Classifier, x: Images, keep: Masks, ids: list[str]) -> Images:
    """The images with the missing pixels from a fill, clipped to [0, 1]."""
    index = torch.arange(len(x))
    fill = make_filler(spec, classifier, x, ImageRandom(0, ids))(index, torch.zeros_like(index), keep)
    return torch.where(keep > 0, x, fill).clamp(0, 1)


def psnr(image: Images, x: Images, keep: Masks, draws: Tensor) -> Tensor:
    """PSNR in dB over the missing pixels of all images: of the sample first, then of every bootstrap resample (1 + r,).

    From the mean squared error over the images, because single images that are restored exactly have an infinite PSNR.
    """
    error = (image - x).square().sum((1, 2, 3))
    count = (1 - keep).sum((1, 2, 3)) * x.shape[1]
    return -10 * (mean(error, draws) / mean(count, draws)).log10()


def mean(values: Tensor, draws: Tensor) -> Tensor:
    """The mean of n values, then that of every bootstrap resample (1 + r,)."""
    values = values.double()
    return torch.cat([values.mean()[None], values[draws].mean(1)])


def interval(samples: Tensor, digits: int, sign: str = "") -> str:
    """A value and its 95 % bootstrap interval."""
    low, high = samples[1:].quantile(torch.tensor([0.025, 0.975], dtype=samples.dtype)).tolist()
    return f"{samples[0]:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def table(header: list[str], rows: list[list[str]]) -> None:
    """Prints a markdown table."""
    for row in [header, ["---"] * len(header), *rows]:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()

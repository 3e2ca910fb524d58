"""Makes the figures of analyses.md: python docs/analyses.py [NAME ...]; without a name, all.

On the embedded digits, and on a few photos where an object lies within a scene. It takes some minutes on two cores, and prints
the numbers that the figures show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from figures import checkpoints, classifier, main, panels, show
from matplotlib.figure import Figure
from torch import Tensor

from xbench import CLASSIFIERS, DATASETS, METHODS, METRICS, Batch, Classifier, Explainer, ImageRandom
from xbench.fill import make_filler
from xbench.metrics.filling import replaced
from xbench.metrics.localisation import ALPHAS, misses
from xbench.metrics.sample_realism import SampleRealism
from xbench.ops.boxes import box_masks
from xbench.perturb import probability_of, stream
from xbench.types import Masks

ANALYSES: dict[str, Callable[[], Figure]] = {}
PHOTOS = ("photos/00", "photos/08", "photos/14")
"""A dog, yurts and spoonbills, each with some of the scene around it."""


def analysis(make: Callable[[], Figure]) -> Callable[[], Figure]:
    """Registers a figure under its function's name."""
    ANALYSES[make.__name__] = make
    return make


def batch_of(dataset: str, part: str = "evaluation", count: int | None = None, ids: Sequence[str] = ()) -> Batch:
    """Images of a part of a dataset, the first ``count`` or those named; the class explained is the label."""
    subset = DATASETS.make(dataset).load(part)  # type: ignore[arg-type]
    names = list(ids or subset.first(count))
    x, label, boxes = subset.read(names)
    return Batch(names, x, label, label, boxes)


def photo_classifier() -> Classifier:
    """The photos' classifier."""
    return CLASSIFIERS.make("efficientnet-lite").load()


def filled_by(fill: str, network: Classifier) -> Explainer:
    """What the metrics of fills take: a perturbation method with that fill."""
    return Explainer(METHODS.make(f'lime(fill="{fill}")'), network)


@analysis
def top1() -> Figure:
    """What LIME's samples are taken for, pooled over the images: the 10 commonest labels, after the G paper."""
    drawn = Figure(figsize=(8, 3.2), layout="constrained")
    axes = drawn.subplots(1, 2)
    network = photo_classifier()
    sets = {
        "30 digits, 49 samples each": (
            classifier(),
            batch_of("mnist", count=30),
            50,
            ("gray", "zero", "blur", "inpaint"),
        ),
        "6 photos, 39 samples each": (network, batch_of("photos", count=6), 40, ("gray", "blur", "local-mean")),
    }
    for panel, (title, (explained, batch, samples, fills)) in zip(axes, sets.items(), strict=True):
        for fill in fills:
            shares = SampleRealism(samples=samples).labels(filled_by(fill, explained), batch).mean(0)
            ordered = shares.sort(descending=True).values
            entropy, common = float(torch.special.entr(shares).sum()), float(ordered[:3].sum())
            print(f"top1, {title}, {fill}: entropy {entropy:.2f} nats, three commonest labels {common:.1%}")
            panel.plot(range(1, 11), ordered[:10], "o-", ms=3, label=f"{fill}: {entropy:.2f} nats, first three {common:.0%}")
        truth = torch.bincount(batch.label, minlength=explained.classes).sort(descending=True).values / len(batch)
        panel.plot(range(1, 11), truth[:10], color="0.7", zorder=0, label="the images' own labels")
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("rank of the label")
        panel.legend(fontsize=6)
    axes[0].set_ylabel("share of all samples")
    return drawn


@analysis
def outside() -> Figure:
    """The change of probability by patches that touch no box, by fill and size of the patch, on 20 digits."""
    batch = batch_of("mnist", count=20)
    drawn = Figure(figsize=(4.6, 3.2), layout="constrained")
    panel = drawn.subplots()
    fills, sizes = ("gray", "noise", "blur", "local-mean", "inpaint"), (2, 3, 4)
    for fill in fills:
        means = []
        for size in sizes:
            values = SampleRealism(patch=size, stride=2)
            change = values.changes(filled_by(fill, classifier()), batch)
            assert batch.boxes is not None
            means.append(values.outside(change, box_masks(batch.boxes, batch.x), classifier().shape).nanmean())
        print(f"outside, {fill}: {', '.join(f'{float(m):.1e} at {s} px' for m, s in zip(means, sizes, strict=True))}")
        panel.plot(sizes, means, "o-", label=fill)
    panel.set_xticks(sizes)
    panel.set_yscale("log")
    panel.set_xlabel("side of the patch, px")
    panel.set_ylabel("mean |change of p|")
    drawn.legend(loc="outside right center", fontsize=7)
    return drawn


@analysis
def row() -> Figure:
    """Probability along a row of patches through the object, by fill, after figure 7 of the G paper."""
    network = photo_classifier()
    batch = batch_of("photos", ids=PHOTOS)
    assert batch.boxes is not None
    drawn = Figure(figsize=(9, 4.4), layout="constrained")
    axes = drawn.subplots(2, len(batch))
    patch = 53
    lefts = torch.arange(0, 224 - patch + 1, 9)
    tops = torch.tensor([int((box[0, 1] + box[0, 3] - patch) / 2) for box in batch.boxes]).clamp(0, 224 - patch)
    pixel = torch.arange(224)

    def mask_of(image: Tensor, step: Tensor) -> Masks:
        down = (pixel >= tops[image, None]) & (pixel < tops[image, None] + patch)
        right = (pixel >= lefts[step, None]) & (pixel < lefts[step, None] + patch)
        return ~(down[:, :, None] & right[:, None])[:, None]

    curves = {}
    for fill in ("gray", "blur", "telea"):
        filler = make_filler(fill, network, batch.x, ImageRandom(0, batch.ids))
        curves[fill] = stream(network, batch.x, len(lefts), mask_of, filler, probability_of(batch.target))
    whole = network.probabilities(batch.x).gather(1, batch.target[:, None])[:, 0]
    for i, box in enumerate(batch.boxes):
        axes[0, i].imshow(batch.x[i].permute(1, 2, 0).numpy())
        axes[0, i].axhspan(int(tops[i]), int(tops[i]) + patch, color="white", alpha=0.35, lw=0)
        for x0, y0, x1, y1 in box.tolist():
            axes[0, i].plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="C3", lw=1)
        axes[0, i].set_axis_off()
        for fill, curve in curves.items():
            axes[1, i].plot(lefts + patch / 2, curve[i], label=fill)
            print(f"row, {batch.ids[i]}, {fill}: mean |change| {float((curve[i] - whole[i]).abs().mean()):.3f}")
        axes[1, i].axhline(float(whole[i]), color="0.6", lw=0.8, label="whole image")
        axes[1, i].set_xlim(0, 224)
        axes[1, i].set_ylim(0, 1)
        axes[1, i].set_xlabel("centre of the patch, px")
    axes[1, 0].set_ylabel("p of the class")
    axes[1, 0].legend(fontsize=7)
    return drawn


@analysis
def alpha() -> Figure:
    """Localisation error against the threshold on 40 held-out digits, after figure S6 of the G paper."""
    batch = batch_of("mnist", "heldout", count=40)
    drawn = Figure(figsize=(6, 3.8), layout="constrained")
    panel = drawn.subplots()
    specs = {"SP": "sliding-patch", "LIME": "lime", "MP2": "mp2"}
    specs |= {f"{label}-G": f'{name}(fill="inpaint")' for label, name in specs.items()}
    specs |= {"GradCAM": "gradcam", "VP": "vp", "Random": "random", "Centre": "centre"}
    colours = dict(zip(["SP", "LIME", "MP2", "GradCAM", "VP", "Random", "Centre"], range(7), strict=True))
    for label, spec in specs.items():
        explainer = Explainer(METHODS.make(spec), classifier(), states=checkpoints())
        iou = METRICS.make("localisation(alpha=0.5)")(explainer, batch, explainer.maps(batch)).curves["iou"]
        error = misses(iou).mean(0)
        best = int(error.argmin())
        print(f"alpha, {label}: lowest error {float(error[best]):.3f} at alpha {ALPHAS[best]:.2f}")
        style = "--" if label.endswith("-G") else ":" if METHODS.make(spec).control else "-"
        panel.plot(ALPHAS, error, style, color=f"C{colours[label.removesuffix('-G')]}", label=label)
    panel.set_xlabel("threshold alpha, share of the map's maximum")
    panel.set_ylabel("localisation error, 40 held-out digits")
    drawn.legend(loc="outside right center", fontsize=7)
    return drawn


@analysis
def deletion_preservation() -> Figure:
    """The object filled in (deletion) and everything else filled in (preservation), after figure 2 of the G paper."""
    network = photo_classifier()
    sets = [
        (classifier(), batch_of("mnist", count=3), ("gray", "blur", "inpaint")),
        (network, batch_of("photos", ids=PHOTOS), ("gray", "blur", "telea")),
    ]
    photos = batch_of("photos")
    blurred = replaced(photos.x, torch.zeros_like(photos.x[:, :1]), "blur", network, ImageRandom(0, photos.ids))
    p = network.probabilities(blurred).gather(1, photos.target[:, None])
    print(f"deletion_preservation: mean p of {len(photos)} photos blurred as a whole {float(p.mean()):.2f}")
    left = [
        "image",
        *(f"{goal}\n{fill}" for goal in ("deletion", "preservation") for fill in ("gray", "blur", "inpaint / telea")),
    ]
    drawn, axes = panels(len(left), 6, left, [], 1.05)
    for first, (explained, batch, fills) in zip((0, 3), sets, strict=True):
        assert batch.boxes is not None
        hole = box_masks(batch.boxes, batch.x)
        images = [batch.x]
        for keep in (1 - hole, hole):
            images += [replaced(batch.x, keep, fill, explained, ImageRandom(0, batch.ids)) for fill in fills]
        for at, shown in enumerate(images):
            p = explained.probabilities(shown).gather(1, batch.target[:, None])[:, 0]
            print(f"deletion_preservation, {explained.name}, {left[at]!r}: p {', '.join(f'{v:.2f}' for v in p.tolist())}")
            for i, image in enumerate(shown):
                draw(axes[at][first + i], image, float(p[i]))
    return drawn


def draw(panel: object, image: Tensor, p: float) -> None:
    """An image (c, h, w) with the probability of its class below."""
    show(panel, image[0] if len(image) == 1 else image.permute(1, 2, 0))  # type: ignore[arg-type]
    panel.set_xlabel(f"p = {p:.2f}", fontsize=6, labelpad=1)  # type: ignore[attr-defined]


@analysis
def area_curves() -> Figure:
    """Probability as the top and the low k % of the pixels are replaced by gray, 100 digits, after figure 4 of the VP paper."""
    batch = batch_of("mnist", count=100)
    drawn = Figure(figsize=(9, 3.2), layout="constrained")
    axes = drawn.subplots(1, 3, sharey=True)
    names = ["vp", "nvp", "l2x", "gradient", "integrated-gradients", "gradcam", "rise", "intensity", "random"]
    for name in names:
        explainer = Explainer(METHODS.make(name), classifier(), states=checkpoints())
        scored = METRICS.make("area")(explainer, batch, explainer.maps(batch))
        top, low = (scored.curves[f"probability {side}"].mean(0) for side in ("top", "low"))
        area = float(scored.scores["probability"].mean())
        print(f"area_curves, {name}: area {area:.3f}")
        style = ":" if METHODS.get(name).control else "-"
        for panel, curve in zip(axes, (top, low, low - top), strict=True):
            panel.plot(range(0, 101, 10), curve, style, label=f"{METHODS.get(name).label or name}: {area:.2f}")
    for panel, title in zip(axes, ("top k % replaced", "low k % replaced", "low minus top: the area"), strict=True):
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("k, % of the pixels")
    axes[0].set_ylabel("p of the class, mean of 100 digits")
    drawn.legend(*axes[2].get_legend_handles_labels(), loc="outside right center", fontsize=7, title="area")
    return drawn


if __name__ == "__main__":
    main(ANALYSES, __doc__)

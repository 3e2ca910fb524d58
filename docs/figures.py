"""Makes the figures of the documentation on the embedded images: python docs/figures.py [NAME ...]; without a name, all.

Everything drawn is computed here, by the shipped classifier, explainers and inpainter; it takes some minutes on two cores.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from xbench import CLASSIFIERS, DATASETS, METHODS, Classifier, ImageRandom, Subset
from xbench.checkpoints import Checkpoints
from xbench.explainer import Explainer
from xbench.method import Method, TrainedMethod
from xbench.methods.l2x import L2X
from xbench.methods.sas import Sas
from xbench.ops.blur import gaussian_kernel
from xbench.ops.normalise import minmax
from xbench.ops.pyramid import blur_pyramid, sharpened
from xbench.ops.ranking import ranks
from xbench.ops.schedule import schedule_masks
from xbench.ops.topk import gumbel_topk, soft_topk_masks
from xbench.types import Images, Labels, Maps

FOLDER = Path(__file__).with_name("figures")
FIGURES: dict[str, Callable[[], Figure]] = {}


def figure(make: Callable[[], Figure]) -> Callable[[], Figure]:
    """Registers a figure under its function's name."""
    FIGURES[make.__name__] = make
    return make


@functools.cache
def classifier() -> Classifier:
    """The digits' classifier."""
    return CLASSIFIERS.make("mnist-cnn").load()


@functools.cache
def checkpoints() -> Checkpoints:
    """The trained explainers that ship."""
    return Checkpoints(DATASETS.make("mnist"))


def digits(count: int) -> tuple[list[str], Images, Labels]:
    """The first evaluation digits, of different classes as long as there are: ids, images, predicted classes."""
    subset: Subset = DATASETS.make("mnist").load("evaluation")
    _, label, _ = subset.read(subset.ids)
    seen: dict[int, list[str]] = {}
    for name, number in zip(subset.ids, label.tolist(), strict=True):
        seen.setdefault(number, []).append(name)
    turns = [
        names[turn] for turn in range(max(map(len, seen.values()))) for _, names in sorted(seen.items()) if turn < len(names)
    ]
    ids = turns[:count]
    x, _, _ = subset.read(ids)
    return ids, x, classifier().probabilities(x).argmax(1)


def explained(method: Method | str, ids: Sequence[str], x: Images, y: Labels) -> Maps:
    """The method's maps (b, h, w), as every metric gets them."""
    entry = METHODS.make(method) if isinstance(method, str) else method
    return Explainer(entry, classifier(), states=checkpoints())(x, y, ids)


def panels(
    rows: int, columns: int, left: Sequence[str], top: Sequence[str], size: float = 0.75
) -> tuple[Figure, list[list[Axes]]]:
    """A grid of empty panels with names at the left and at the top."""
    drawn = Figure(figsize=(size * columns + 1.6, size * rows + 0.8), layout="constrained")
    axes = drawn.subplots(rows, columns, squeeze=False)
    for row in axes:
        for panel in row:
            panel.set_xticks([])
            panel.set_yticks([])
    for panel, text in zip(axes[:, 0], left, strict=False):
        panel.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=7)
    for panel, text in zip(axes[0], top, strict=False):
        panel.set_title(text, fontsize=7)
    return drawn, axes.tolist()


def show(panel: Axes, image: Tensor, colours: str = "gray", high: float = 1.0) -> None:
    """One image or map (h, w) on the scale 0..high."""
    panel.imshow(image.numpy(), cmap=colours, vmin=0, vmax=high)


@figure
def gallery() -> Figure:
    """Every method that applies on the same digits, each map min-max normalised."""
    ids, x, y = digits(10)
    names = [name for name in METHODS.names() if METHODS.make(name).not_applicable(classifier()) is None]
    names.sort(key=lambda name: METHODS.get(name).control)
    titles = [METHODS.get(name).label or name for name in names]
    drawn, axes = panels(1 + len(names), 10, ["image", *titles], [])
    for column, image in enumerate(x):
        show(axes[0][column], image[0])
    for row, name in zip(axes[1:], names, strict=True):
        for panel, values in zip(row, minmax(explained(name, ids, x, y)), strict=True):
            show(panel, values, "magma")
    return drawn


@figure
def consistency() -> Figure:
    """Maps of every method with a mask grid at its cell sizes, after figure 3 of the VP paper."""
    ids, x, y = digits(4)
    sizes = (1, 2, 4)
    names = [name for name in METHODS.names() if METHODS.get(name)().at_upsample(2) is not None]
    top = ["image" if i % 4 == 0 else f"m = {sizes[i % 4 - 1]}" for i in range(16)]
    drawn, axes = panels(len(names), 16, [METHODS.get(name).label or name for name in names], top)
    for row, name in zip(axes, names, strict=True):
        method = METHODS.make(name)
        variants = [variant for m in sizes if (variant := method.at_upsample(m)) is not None]
        maps = [minmax(explained(variant, ids, x, y)) for variant in variants]
        for i in range(len(x)):
            show(row[4 * i], x[i, 0])
            for panel, values in zip(row[4 * i + 1 :], maps, strict=False):
                show(panel, values[i], "magma")
    return drawn


@figure
def uncertainty() -> Figure:
    """Standard deviations of VP and VarSal on clean, brighter and motion-blurred digits, one scale per method.

    Brightness + 0.3 and motion blur of radius 10, sigma 3: the strengths of severity 5 for small images in CIFAR-10-C
    (Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261).
    """
    ids, x, y = digits(5)
    kinds = {"clean": x, "brightness 5": (x + 0.3).clamp(max=1), "motion blur 5": motion_blur(x, 10, 3.0)}
    methods = {"VP": METHODS.make('vp(output="std")'), "VarSal": METHODS.make('varsal(output="std")')}
    spread = {(k, m): explained(method, ids, images, y) for k, images in kinds.items() for m, method in methods.items()}
    top = [f"{part}\n{kind}" for kind in kinds for part in ("image", *methods)]
    drawn, axes = panels(len(x), len(top), [], top)
    for column, kind in enumerate(kinds):
        for row in range(len(x)):
            show(axes[row][3 * column], kinds[kind][row, 0])
            for offset, name in enumerate(methods, 1):
                high = max(float(spread[other, name].max()) for other in kinds)
                show(axes[row][3 * column + offset], spread[kind, name][row], "viridis", high)
    for column, kind in enumerate(kinds):
        for offset, name in enumerate(methods, 1):
            axes[-1][3 * column + offset].set_xlabel(f"mean {float(spread[kind, name].mean()):.3f}", fontsize=6)
    return drawn


def motion_blur(x: Images, radius: int, sigma: float) -> Images:
    """Images smeared to one side along the rows by the half of a Gaussian, as a moving camera does."""
    kernel = gaussian_kernel(sigma, radius)[radius:].to(x)
    padded = F.pad(x, (0, radius, 0, 0), mode="replicate")
    return F.conv2d(padded, (kernel / kernel.sum()).view(1, 1, 1, -1))


@figure
def cascade() -> Figure:
    """Masks of growing area and the images under them, after figure 2 of the SaS paper: SaS's schedule, I-GOS's best pixels."""
    ids, x, y = digits(3)
    premask = sas().premask(classifier(), x, y, ImageRandom(0, ids))
    igos = explained("igos", ids, x, y)
    order = ranks(igos, ImageRandom(0, ids).uniform("ties", (igos[0].numel(),)))
    best = order[:, None] < torch.arange(21)[:, None] * igos[0].numel() / 20
    rows = [(premask, schedule_masks(premask, 20)), (igos, best.view(3, 21, 28, 28).float())]
    steps = [1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19]
    left = [text for _ in ids for text in ("SaS", "image under it", "I-GOS", "image under it")]
    drawn, axes = panels(4 * len(ids), 2 + len(steps), left, ["image", "map", *(f"k = {k}" for k in steps)])
    for kind, (maps, masks) in enumerate(rows):
        images = sharpened(blur_pyramid(x), masks)
        for i, values in enumerate(minmax(maps)):
            above, below = axes[4 * i + 2 * kind : 4 * i + 2 * kind + 2]
            for row in (above, below):
                show(row[0], x[i, 0])
                show(row[1], values, "magma")
            for column, k in enumerate(steps, 2):
                show(above[column], masks[i, k])
                show(below[column], images[i, k, 0])
    return drawn


def sas(**parameters: object) -> Sas:
    """SaS at its defaults for digits."""
    made = METHODS.make("sas").resolved(classifier().shape).replace(**parameters)
    assert isinstance(made, Sas)
    return made


@figure
def profiles() -> Figure:
    """The logit of images under the masks of SaS and of their complements, at several moments of the optimisation."""
    ids, x, y = digits(20)
    pyramid = blur_pyramid(x)
    drawn = Figure(figsize=(8, 3.2), layout="constrained")
    axes = drawn.subplots(1, 2, sharey=True)
    for iterations in (1, 5, 20, 200):
        method = sas(iterations=iterations)
        masks = schedule_masks(method.premask(classifier(), x, y, ImageRandom(0, ids)), 20)
        for panel, keep in zip(axes, (masks, 1 - masks), strict=True):
            with torch.no_grad():
                logits = classifier()(sharpened(pyramid, keep).flatten(0, 1)).view(len(x), 21, -1)
            mean = logits.gather(2, y[:, None, None].expand(-1, 21, 1)).mean((0, 2))
            panel.plot(torch.arange(21) / 20, mean, label=f"{iterations} iterations")
    for panel, name in zip(axes, ("insertion: image under m_k", "deletion: image under 1 - m_k"), strict=True):
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("k / K = mean of m_k squared")
    axes[0].set_ylabel("logit of the class, mean of 20 digits")
    axes[0].legend(fontsize=7)
    return drawn


@figure
def features() -> Figure:
    """Feature saliency: SaS that keeps the features of a layer rather than the logit."""
    ids, x, y = digits(6)
    layers = ["relu1", "relu2", "relu3", "relu4", "fc2"]
    drawn, axes = panels(2 + len(layers), len(ids), ["image", "logit of the class", *layers], [], 0.9)
    for column, image in enumerate(x):
        show(axes[0][column], image[0])
    for row, layer in zip(axes[1:], [None, *layers], strict=True):
        method = sas(mode="insertion", layer=layer)
        for panel, values in zip(row, minmax(explained(method, ids, x, y)), strict=True):
            show(panel, values, "magma")
    return drawn


@figure
def discrepancy() -> Figure:
    """The share of the image that a training mask keeps against the share asked for: Gumbel against SOFT top-k."""
    ids, x, _ = digits(20)
    drawn = Figure(figsize=(4.2, 3.8), layout="constrained")
    panel = drawn.subplots()
    shares = torch.linspace(0.05, 0.95, 19)
    rng = ImageRandom(0, ids)
    for name, colour in (("vp", "C0"), ("l2x", "C1")):
        method = METHODS.make(name).resolved(classifier().shape)
        assert isinstance(method, TrainedMethod)
        network, _ = checkpoints().find(method, classifier())
        with torch.no_grad():
            scores = network(x)[:, 0]
        cells = scores[0].numel()
        kept: dict[str, list[Tensor]] = {"SOFT": [], "Gumbel": []}
        for step, share in enumerate(shares):
            soft = soft_topk_masks(scores, torch.full((len(x),), float(share)), eps=0.03)
            uniform = rng.uniform("gumbel", (max(1, round(float(share) * cells)), cells), step)
            tau = method.tau if isinstance(method, L2X) else METHODS.make("l2x").parameters["tau"]
            kept["SOFT"].append(soft.mean((1, 2, 3)))
            kept["Gumbel"].append(gumbel_topk(scores.flatten(1), uniform, tau).mean(1))
        for kind, style in (("SOFT", "-"), ("Gumbel", "--")):
            mean = torch.stack(kept[kind]).mean(1)
            panel.plot(shares, mean, style, color=colour, label=f"{kind} top-k on the scores of {method.label}")
    panel.plot([0, 1], [0, 1], color="0.8", zorder=0)
    panel.set_xlabel("share asked for")
    panel.set_ylabel("share selected, mean of 20 digits")
    panel.legend(fontsize=7)
    return drawn


@figure
def photos() -> Figure:
    """The 20 photos of the dataset `photos` with the boxes of their objects, by number and label."""
    drawn = Figure(figsize=(8.6, 7.4), layout="constrained")
    places = drawn.subplots(4, 5).flatten()
    for part in ("evaluation", "heldout"):
        subset = DATASETS.make("photos").load(part)
        for name, image, label, boxes in zip(subset.ids, *subset.read(subset.ids), strict=True):
            panel = places[int(name.removeprefix("photos/"))]
            panel.imshow(image.permute(1, 2, 0).numpy(), extent=(0, image.shape[2], image.shape[1], 0))
            for x0, y0, x1, y1 in boxes.tolist():
                panel.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color="lime", linewidth=1.5))
            panel.set_title(f"{name}, {int(label)}" + (", held out" if part == "heldout" else ""), fontsize=7)
            panel.set_axis_off()
    return drawn


def main(figures: Mapping[str, Callable[[], Figure]], about: str | None) -> None:
    """Writes those of the figures that the command line names."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(figures)}")
    names = parser.parse_args().names or list(figures)
    if unknown := sorted(set(names) - set(figures)):
        parser.error(f"no figure {', '.join(unknown)}; valid: {', '.join(figures)}")
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        path = FOLDER / f"{name}.png"
        figures[name]().savefig(path, dpi=110, metadata={"Software": None})
        print(f"written: {path}", flush=True)


if __name__ == "__main__":
    main(FIGURES, __doc__)

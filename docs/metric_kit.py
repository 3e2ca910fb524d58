"""What the pictures of the metrics share: one digit under `mnist-cnn`, what a metric says of a method on it, and panels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import torch
from figures import checkpoints, classifier, show
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from xbench import DATASETS, METHODS, METRICS, Batch, Explainer
from xbench.metric import Metric, Scored
from xbench.ops.normalise import minmax
from xbench.trajectory import WHOLE
from xbench.types import Images, Maps

PICTURES: dict[str, Callable[[], Figure]] = {}
DIGIT = "3171"
"""An image of the evaluation part."""
METHOD, OTHER = "sliding-patch", "random"
COLOURS = {METHOD: "C0", OTHER: "C1"}


def picture(name: str) -> Callable[[Callable[[], Figure]], Callable[[], Figure]]:
    """Registers the picture of a metric."""

    def register(make: Callable[[], Figure]) -> Callable[[], Figure]:
        PICTURES[name] = make
        return make

    return register


@functools.cache
def digit() -> Batch:
    """The image; the class explained is its label, which is the predicted one too."""
    subset = DATASETS.make("mnist").load("evaluation")
    x, label, boxes = subset.read([DIGIT])
    return Batch([DIGIT], x, label, label, boxes)


def explainer(method: str) -> Explainer:
    """A method on the digits' classifier."""
    return Explainer(METHODS.make(method), classifier(), states=checkpoints())


@functools.cache
def explained(method: str) -> Maps:
    """Its map of the digit (1, h, w)."""
    return explainer(method).maps(digit())


def asked(metric: str | Metric, method: str) -> tuple[Scored, Images]:
    """What the metric says of the method on the digit, and the images (n, c, h, w) that the classifier is asked about for it.

    Images on a trajectory come in the order of the metric's points, others in the order in which they are asked about.
    """
    asking = METRICS.make(metric) if isinstance(metric, str) else metric
    explaining = explainer(method)
    maps = explained(method) if asking.uses_maps else None
    seen: list[Images] = []
    hook = classifier().register_forward_pre_hook(lambda _, images: seen.append(images[0].detach().clone()))
    try:
        scored = asking(explaining, digit(), maps)
    finally:
        hook.remove()
    images = torch.cat(seen) if seen else digit().x[:0]
    points = asking.points(explaining.method, classifier())
    if points:
        place = list(dict.fromkeys(reversed(points)))
        order = [WHOLE, *(one for one in place if not one.of_map and one != WHOLE), *(one for one in place if one.of_map)]
        images = torch.stack([images[order.index(one)] for one in points])
    return scored, images


def canvas(images: Sequence[str], curves: int = 1) -> tuple[Figure, list[Axes], list[Axes]]:
    """Panels for images with the titles given, and right of them panels for curves, twice as wide."""
    drawn = Figure(figsize=(1.15 * len(images) + 2.4 * curves, 1.65 if curves else 1.5), dpi=110, layout="constrained")
    drawn.get_layout_engine().set(h_pad=0.07)
    axes = drawn.subplots(1, len(images) + curves, width_ratios=[1.0] * len(images) + [2.0] * curves, squeeze=False)[0]
    for panel, title in zip(axes, images, strict=False):
        panel.set_title(title, fontsize=7)
        panel.set_xticks([])
        panel.set_yticks([])
    for panel in axes[len(images) :]:
        panel.tick_params(labelsize=6)
    return drawn, list(axes[: len(images)]), list(axes[len(images) :])


def named(panel: Axes, x: str, y: str) -> None:
    """Names of the axes, and the legend."""
    panel.set_xlabel(x, fontsize=7)
    panel.set_ylabel(y, fontsize=7)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=6, frameon=False)


def frame(panel: Axes, box: Tensor, colour: str, style: str = "-") -> None:
    """A box (x0, y0, x1, y1) in pixels."""
    x0, y0, x1, y1 = box.tolist()
    panel.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color=colour, linestyle=style, linewidth=1.4))


def true_box() -> Tensor:
    """The digit's box."""
    boxes = digit().boxes
    assert boxes is not None
    return boxes[0][0]


def maps_row(panels: Iterable[Axes], maps: Iterable[Maps]) -> None:
    """Maps (1, h, w), each scaled to [0, 1]."""
    for panel, values in zip(panels, maps, strict=True):
        show(panel, minmax(values)[0], "magma")

"""Pictures of the metrics that change the image, see metric_pictures.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from figures import classifier, show
from matplotlib.figure import Figure
from metric_kit import (
    COLOURS,
    DIGIT,
    METHOD,
    OTHER,
    asked,
    canvas,
    digit,
    explained,
    maps_row,
    named,
    picture,
)

from xbench import ImageRandom
from xbench.metrics.filling import replaced
from xbench.metrics.game import Game
from xbench.ops.boxes import box_masks


def removal(metric: str, column: str, curve: str, steps: Sequence[int], titles: Sequence[str], label: str) -> Figure:
    """The digit's map, the images at some points of the trajectory, and the curves of two methods with their scores."""
    drawn, panels, (plot,) = canvas(["image", f"map of {METHOD}", *titles])
    scored, images = asked(metric, METHOD)
    if curve == "probability":
        probability = classifier().probabilities(images)[:, digit().target[0]]
        assert torch.allclose(probability, scored.curves[curve][0].float(), atol=1e-5)
    show(panels[0], digit().x[0, 0])
    maps_row(panels[1:2], [explained(METHOD)])
    for panel, step in zip(panels[2:], steps, strict=True):
        show(panel, images[step, 0])
    for method in (METHOD, OTHER):
        scored, _ = asked(metric, method)
        values = scored.curves[curve][0]
        end = 0.9 if metric == "low-k-kl" else 1.0
        share = torch.linspace(0, end, len(values))
        plot.plot(share, values, color=COLOURS[method], label=f"{method}: {float(scored.scores[column]):.2f}")
        plot.fill_between(share, values, color=COLOURS[method], alpha=0.15, linewidth=0)
    named(plot, label, "KL, nats" if metric == "low-k-kl" else "probability of the class")
    return drawn


@picture("deletion")
def deletion() -> Figure:
    """The most important pixels go first; the score is the area under the probability of the class."""
    titles = [f"{count} of 28 steps" for count in (3, 6, 9)]
    return removal("deletion", "auc", "probability", (3, 6, 9), titles, "share of the pixels removed")


@picture("insertion")
def insertion() -> Figure:
    """The most important pixels replace those of the blurred image; the score is the area under the curve."""
    titles = ["blurred", *(f"{count} of 28 steps" for count in (3, 9))]
    return removal("insertion", "auc", "probability", (0, 3, 9), titles, "share of the pixels shown")


@picture("low-k-kl")
def low_k_kl() -> Figure:
    """The least important pixels go first; the score is the area under the divergence from the first prediction."""
    titles = [f"{k} % removed" for k in (50, 80, 90)]
    return removal("low-k-kl", "kl", "kl", (5, 8, 9), titles, "share of the pixels removed")


@picture("area")
def area() -> Figure:
    """The curves of removing the top and the low k % of the pixels; the score is the area between them."""
    scored, images = asked("area", METHOD)
    drawn, panels, (plot,) = canvas(["image", f"map of {METHOD}", "top 20 % removed", "low 20 % removed"])
    show(panels[0], digit().x[0, 0])
    maps_row(panels[1:2], [explained(METHOD)])
    for panel, step in zip(panels[2:], (2, 12), strict=True):
        show(panel, images[step, 0])
    share = torch.linspace(0, 1, 11)
    top, low = (scored.curves[f"probability {end}"][0] for end in ("top", "low"))
    plot.plot(share, low, color="C2", label="low k % removed")
    plot.plot(share, top, color="C3", label="top k % removed")
    plot.fill_between(share, top, low, color="0.8", label=f"area {float(scored.scores['probability']):.2f}")
    named(plot, "k", "probability of the class")
    return drawn


@picture("game")
def game() -> Figure:
    """The top k % removed, and the top k % kept; what is missing is made up from the pixels around it."""
    scored, images = asked("game", METHOD)
    drawn, panels, (plot,) = canvas(["image", f"map of {METHOD}", "top 10 % removed", "20 %", "top 10 % kept", "20 %"])
    show(panels[0], digit().x[0, 0])
    maps_row(panels[1:2], [explained(METHOD)])
    order = Game().removals(28 * 28)
    for panel, (end, share) in zip(panels[2:], [("top", 0.1), ("top", 0.2), ("low", 0.9), ("low", 0.8)], strict=True):
        step = next(i for i, one in enumerate(order) if one.end == end and one.removed == round(share * 28 * 28))
        show(panel, images[step, 0])
    share = torch.linspace(0, 1, 11)
    for name, colour in (("insertion", "C2"), ("deletion", "C3")):
        plot.plot(share, scored.curves[name][0], color=colour, label=f"{name}: {float(scored.scores[name]):.2f}")
    plot.set_title(f"overall: {float(scored.scores['overall']):.2f}", fontsize=7)
    named(plot, "k", "probability of the class")
    return drawn


@picture("infidelity")
def infidelity() -> Figure:
    """What the map says about noise on the image against what it does to the logit; the score is the scatter about the line."""
    methods = ("integrated-gradients", OTHER)
    drawn, panels, plots = canvas(["image", *methods], curves=2)
    show(panels[0], digit().x[0, 0])
    maps_row(panels[1:], [explained(method) for method in methods])
    for plot, method in zip(plots, methods, strict=True):
        scored, images = asked("infidelity", method)
        noise = (images[:1] - images[1:]).double()
        with torch.no_grad():
            logit = classifier()(images)[:, digit().target[0]].double()
        claimed = (noise.sum(1) * explained(method).double()).sum((1, 2))
        changed = logit[0] - logit[1:]
        factor = float(claimed @ changed / claimed.square().sum())
        score = float((factor * claimed - changed).square().mean())
        assert abs(score - float(scored.scores["scaled"])) < 1e-4 * score
        plot.scatter(claimed, changed, s=4, color="C0")
        ends = torch.stack([claimed.min(), claimed.max()])
        plot.plot(ends, factor * ends, color="0.5", linewidth=0.8)
        plot.set_title(f"{method}: scaled {score:.2g}", fontsize=7)
        named(plot, "I . g(x)", "change of the logit")
    return drawn


@picture("filling")
def filling() -> Figure:
    """The object's box filled by several fills: a good remover leaves nothing that a second network would recognise."""
    fills = ("gray", "noise", "blur", "local-mean", "linear", "inpaint")
    drawn, panels, _ = canvas(["image", *fills], curves=0)
    show(panels[0], digit().x[0, 0])
    boxes = digit().boxes
    assert boxes is not None
    keep = 1 - box_masks(boxes, digit().x).amax(1, keepdim=True)
    for panel, fill in zip(panels[1:], fills, strict=True):
        scored, _ = asked("filling", f'lime(fill="{fill}")')
        show(panel, replaced(digit().x, keep, fill, classifier(), ImageRandom(0, [DIGIT]))[0, 0])
        panel.set_xlabel(f"MS-SSIM {float(scored.scores['ms_ssim']):.2f}", fontsize=7)
    return drawn


@picture("sample-realism")
def sample_realism() -> Figure:
    """Three of LIME's samples by fill, what all samples are taken for, and the change of p_c by a patch at every place."""
    fills = ("gray", "inpaint")
    drawn = Figure(figsize=(8.4, 2.6), dpi=110, layout="constrained")
    grid = drawn.add_gridspec(2, 6)
    plot = drawn.add_subplot(grid[:, 3:5])
    largest = 0.0
    for row, fill in enumerate(fills):
        scored, images = asked("sample-realism", f'lime(fill="{fill}")')
        shares = scored.curves["labels"][0]
        for column in range(3):
            panel = drawn.add_subplot(grid[row, column])
            show(panel, images[column, 0])
            panel.set_xticks([])
            panel.set_yticks([])
            if column == 0:
                panel.set_ylabel(fill, fontsize=7)
        entropy = float(scored.scores["entropy"])
        plot.bar(torch.arange(10) + 0.4 * row - 0.2, shares, width=0.4, label=f"{fill}: entropy {entropy:.2f}")
        change = scored.curves["patches"][0]
        side = round(len(change) ** 0.5)
        panel = drawn.add_subplot(grid[row, 5])
        largest = largest or float(change.abs().max())
        show(panel, change.abs().view(side, side), "magma", largest)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_title(f"outside {float(scored.scores['outside']):.3f}", fontsize=7)
    plot.tick_params(labelsize=6)
    named(plot, "top-1 label", "share of the samples")
    return drawn

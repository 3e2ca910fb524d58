"""Makes a picture of what every metric looks at: python docs/metric_pictures.py [NAME ...]; without a name, of all.

Every score and curve is the metric's own, and the images shown are those that the classifier was asked about. The docstring of
a figure is its caption in metrics.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import metric_removals  # noqa: F401, registers its pictures
import torch
from figures import classifier, show
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from metric_kit import (
    DIGIT,
    METHOD,
    OTHER,
    PICTURES,
    asked,
    canvas,
    digit,
    explained,
    explainer,
    frame,
    maps_row,
    named,
    picture,
    true_box,
)
from PIL import Image

from xbench import DATASETS, METHODS, METRICS, Batch
from xbench.metrics.localisation import ALPHAS, Localisation
from xbench.ops.boxes import threshold_boxes
from xbench.ops.normalise import minmax

FOLDER = Path(__file__).with_name("figures") / "metrics"


@picture("consistency")
def consistency() -> Figure:
    """Maps of one method whose mask grid has cells of m pixels; the score is their similarity, averaged over the pairs."""
    scored, _ = asked("consistency", "rise")
    method = METHODS.make("rise")
    drawn, panels, _ = canvas(["image", *(f"rise, m = {m}" for m in (1, 2, 4))], curves=0)
    show(panels[0], digit().x[0, 0])
    maps_row(panels[1:], [explained(str(method.at_upsample(m).spec)) for m in (1, 2, 4)])
    drawn.supxlabel(", ".join(f"{name} {float(scored.scores[name]):.2f}" for name in ("ssim", "pc", "psnr")), fontsize=7)
    return drawn


@picture("sensitivity")
def sensitivity() -> Figure:
    """Maps of one method at the settings of a sweep, here sizes of the patch; the score is their similarity over all pairs."""
    method = METHODS.make("sliding-patch")
    scored, _ = asked("sensitivity", "sliding-patch")
    settings = method.sweeps(classifier().shape)["patch"]
    drawn, panels, _ = canvas(["image", *(f"patch {one.parameters['patch']} px" for one in settings)], curves=0)
    show(panels[0], digit().x[0, 0])
    maps_row(panels[1:], [explained(one.spec) for one in settings])
    drawn.supxlabel(", ".join(f"{name} {float(scored.scores[name]):.2f}" for name in ("ssim", "hog", "spearman")), fontsize=7)
    return drawn


@picture("randomisation")
def randomisation() -> Figure:
    """Maps while the layers are randomised from the output down: a map that stays does not depend on the classifier."""
    methods = {"gradient": "C0", "guided-backprop": "C3"}
    layers = [layer for stage in classifier().stages for layer in stage]
    drawn = Figure(figsize=(8.4, 2.5), dpi=110, layout="constrained")
    grid = drawn.add_gridspec(2, len(layers) + 3)
    plot = drawn.add_subplot(grid[:, -2:])
    for row, (method, colour) in enumerate(methods.items()):
        scored, _ = asked("randomisation", method)
        for column in range(len(layers) + 1):
            panel = drawn.add_subplot(grid[row, column])
            randomised = classifier().randomised(layers[:column], 0) if column else classifier()
            maps_row([panel], [explainer(method).on(randomised).maps(digit())])
            panel.set_xticks([])
            panel.set_yticks([])
            if row == 0:
                panel.set_title(f"to {layers[column - 1]}" if column else "intact", fontsize=7)
            if column == 0:
                panel.set_ylabel(method, fontsize=7)
        plot.plot(range(1, 6), scored.curves["ssim"][0], "o-", ms=3, color=colour, label=method)
    plot.tick_params(labelsize=6)
    named(plot, "stages randomised", "SSIM to the intact one's map")
    return drawn


@picture("stability")
def stability() -> Figure:
    """The point found in the ball at which the map changes most for the distance, and the largest ratio found so far."""
    drawn, panels, (plot,) = canvas(["image", "map", "image found", "its map", "difference of the maps"])
    scored, images = asked("stability", "gradient")
    worst = int(scored.curves["lipschitz"][0].argmax())
    moved = explainer("gradient")(images[worst : worst + 1], digit().target, [DIGIT])
    pairs = [(digit().x[0, 0], "gray"), (images[worst, 0], "gray")]
    for panel, (image, colours) in zip((panels[0], panels[2]), pairs, strict=True):
        show(panel, image, colours)
    before, after = minmax(explained("gradient")), minmax(moved)
    maps_row((panels[1], panels[3]), (before, after))
    change = (after - before)[0]
    largest = float(change.abs().max())
    panels[4].imshow(change.numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest)
    ratio = float((after - before).norm() / (images[worst] - digit().x[0]).norm())
    assert abs(ratio - float(scored.scores["lipschitz"])) < 1e-3 * ratio
    for method, colour in (("gradient", "C0"), ("gradcam", "C2")):
        values = asked("stability", method)[0].curves["lipschitz"][0]
        plot.step(range(1, len(values) + 1), values, where="post", color=colour, label=f"{method}: {float(values[-1]):.2f}")
    named(plot, "evaluations", "largest ratio so far")
    return drawn


@picture("sensitivity-max")
def sensitivity_max() -> Figure:
    """The map of the image, and that of the one of ten noisy images where it differs most; the score is that change."""
    drawn, panels, (plot,) = canvas(["image", "map of gradient", "noisy image", "its map"])
    scored, images = asked("sensitivity-max", "gradient")
    worst = int(scored.curves["change"][0].argmax())
    show(panels[0], digit().x[0, 0])
    show(panels[2], images[worst, 0])
    moved = explainer("gradient")(images[worst : worst + 1], digit().target, [DIGIT])
    maps_row((panels[1], panels[3]), (explained("gradient"), moved))
    for place, (method, colour) in enumerate((("gradient", "C0"), ("gradcam", "C2"))):
        change = asked("sensitivity-max", method)[0].curves["change"][0]
        bars = torch.arange(1, len(change) + 1) + 0.4 * place - 0.2
        plot.bar(bars, change, width=0.4, color=colour, label=f"{method}: {float(change.max()):.2f}")
    named(plot, "draw", "relative change")
    plot.set_ylim(top=1.4 * plot.get_ylim()[1])
    return drawn


@picture("localisation")
def localisation() -> Figure:
    """The true box (green), and the tight box (red) of the map's pixels above a threshold; an IoU of 0.5 is a hit."""
    subset = DATASETS.make("mnist").load("heldout")
    ids = list(subset.first(100))
    x, label, boxes = subset.read(ids)
    heldout = Batch(ids, x, label, label, boxes)
    metric = Localisation().calibrate(explainer(METHOD), heldout, explainer(METHOD).maps(heldout))
    scored, _ = asked(metric, METHOD)
    assert metric.alpha is not None
    alphas = (0.0, metric.alpha, 0.9)
    drawn, panels, (plot,) = canvas(["image", *(f"above {alpha:g} max" for alpha in alphas)])
    show(panels[0], digit().x[0, 0])
    frame(panels[0], true_box(), "limegreen")
    for panel, alpha in zip(panels[1:], alphas, strict=True):
        maps_row([panel], [explained(METHOD)])
        frame(panel, true_box(), "limegreen")
        frame(panel, threshold_boxes(explained(METHOD), torch.tensor([alpha]))[0, 0], "red", "--")
    plot.plot(ALPHAS, scored.curves["iou"][0], "o-", ms=2)
    plot.axhline(0.5, color="0.7", linewidth=0.8)
    plot.axvline(metric.alpha, color="red", linestyle="--", linewidth=0.8, label=f"chosen: {metric.alpha:g}")
    named(plot, "threshold, share of the maximum", "IoU")
    return drawn


@picture("saliency-metric")
def saliency_metric() -> Figure:
    """The box (red) of the map's pixels above a threshold, and its crop, enlarged: good if small and still of the class."""
    alphas = (0.0, 0.2, 0.4)
    drawn, panels, _ = canvas([title for alpha in alphas for title in (f"above {alpha:g} max", "crop")], curves=0)
    for column, alpha in enumerate(alphas):
        whole, crop = panels[2 * column : 2 * column + 2]
        scored, images = asked(METRICS.make(f"saliency-metric(alpha={alpha})"), METHOD)
        maps_row([whole], [explained(METHOD)])
        frame(whole, threshold_boxes(explained(METHOD), torch.tensor([alpha]))[0, 0], "red")
        show(crop, images[0, 0])
        whole.set_xlabel(f"area {float(scored.scores['area']):.0%}", fontsize=7)
        crop.set_xlabel(f"score {float(scored.scores['score']):.2f}", fontsize=7)
    return drawn


@picture("pointing-game")
def pointing_game() -> Figure:
    """The pixel of the map's maximum, within the tolerance (circle) of the true box or not."""
    methods = (METHOD, OTHER, "centre")
    drawn, panels, _ = canvas(["image", *methods], curves=0)
    show(panels[0], digit().x[0, 0])
    frame(panels[0], true_box(), "limegreen")
    for panel, method in zip(panels[1:], methods, strict=True):
        scored, _ = asked("pointing-game", method)
        maps_row([panel], [explained(method)])
        row, column = divmod(int(explained(method).argmax()), 28)
        frame(panel, true_box(), "limegreen")
        panel.plot(column, row, "+", color="cyan", ms=7)
        panel.add_patch(Circle((column, row), 15 * 28 / 224, fill=False, color="cyan", linewidth=0.8))
        panel.set_xlabel("hit" if float(scored.scores["accuracy"]) else "miss", fontsize=7)
    return drawn


@picture("energy-in-box")
def energy_in_box() -> Figure:
    """The map's positive values inside the true box, as a share of all."""
    methods = (METHOD, "gradcam", OTHER)
    drawn, panels, _ = canvas(["image", *methods], curves=0)
    show(panels[0], digit().x[0, 0])
    frame(panels[0], true_box(), "limegreen")
    for panel, method in zip(panels[1:], methods, strict=True):
        scored, _ = asked("energy-in-box", method)
        positive = explained(method)[0].clamp(min=0)
        show(panel, positive, "magma", float(positive.max()))
        frame(panel, true_box(), "limegreen")
        panel.set_xlabel(f"{float(scored.scores[METRICS.make('energy-in-box').columns[0].name]):.0%} inside", fontsize=7)
    return drawn


@picture("efficiency")
def efficiency() -> Figure:
    """Time of one map, and the classifier passes in it; the times are of the machine that made this picture."""
    methods = ("gradient", "gradcam", "vp", "integrated-gradients", "rise", "mp")
    drawn, _, plots = canvas([], curves=2)
    rows = {method: asked(METRICS.make("efficiency(repeats=9)"), method)[0].scores for method in methods}
    for plot, (columns, text) in zip(
        plots, ((("seconds_one",), "seconds, one image"), (("forward", "backward"), "passes")), strict=True
    ):
        for place, column in enumerate(columns):
            values = [float(row[column]) for row in rows.values()]
            thick = 0.8 / len(columns)
            plot.barh(torch.arange(len(methods)) + place * thick - 0.4 + thick / 2, values, height=thick, label=column)
        plot.set_yticks(range(len(methods)), methods if plot is plots[0] else [""] * len(methods), fontsize=6)
        plot.invert_yaxis()
        plot.set_xscale("symlog" if len(columns) > 1 else "log")
        plot.set_xlabel(text, fontsize=7)
    plots[1].legend(fontsize=6, frameon=False)
    return drawn


def main() -> None:
    """Writes the pictures of the metrics named on the command line, or of all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or PICTURES:
        path = FOLDER / f"{name}.png"
        PICTURES[name]().savefig(path, metadata={"Software": None})
        Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
        print(f"written: {path}", flush=True)


if __name__ == "__main__":
    main()

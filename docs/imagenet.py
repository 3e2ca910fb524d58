"""What all 50 000 validation images of ImageNet cost under every metric: passes by the planner's own cost functions.

``python docs/imagenet.py > docs/imagenet-plan.md`` writes the page. Passes per second are an input (``--rates``): forward
images per second and GPU. What a backward pass costs beside a forward one is measured here (``--backward`` sets it), on one
thread, in CPU seconds, as is the rate of this processor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from xbench import CLASSIFIERS, METHODS, METRICS, Method, Metric, Subset, TrainedMethod
from xbench.board.markup import table
from xbench.classifier import Classifier, Passes
from xbench.run.cells import Cell, Plan, chunks
from xbench.run.suite import load_suite
from xbench.store import Store

CLASSIFIER = 'torchvision(weights=None, label_space="imagenet-1k")'
IMAGES, TRAIN = 50_000, 1_281_167
IDS = tuple(f"ILSVRC2012_val_{i:08d}" for i in range(1, IMAGES + 1))
DAY = 86_400
INTRO = """ResNet-50 at 224 px, the {methods} methods with the fewest passes a map of the {apply} that apply to it, all
{metrics} metrics with their default parameters. Written by `python docs/imagenet.py > docs/imagenet-plan.md`. The passes come
from the cost functions by which `xbench plan` prices a run; time for what is not passes (solving, inpainting, reading images)
is not in them. A metric's row leaves out the maps that it reads from the store: for `consistency` and `sensitivity` all.

**No GPU was at hand to measure.** A GPU's rate is an input: forward images per second, and every table is linear in it;
`xbench plan` measures the rate of the device that it is run on. A backward pass is counted as {factor} forward ones,
{source}; this CPU made {rate} forward images per second of CPU time on one thread.
"""


def cells(methods: list[Method], images: dict[Metric, int], classifier: Classifier) -> list[Cell]:
    """Every method under every metric that it applies to, on the first images; trained methods as if they were trained."""
    made = []
    for metric, count in images.items():
        ids = IDS[:count]
        parts = chunks(ids)
        for method in methods:
            if method.not_applicable(classifier) or metric.not_applicable(method, classifier):
                continue
            heldout = IDS[: metric.calibration_images]
            made.append(Cell(method, metric, ids, parts, (), "", Path(), "", tuple(range(len(parts))), heldout))
    return made


def planned(made: list[Cell], classifier: Classifier) -> tuple[dict[str, Passes], Passes]:
    """Passes by metric, maps that are stored left out, and those of these maps, each made once."""
    train: Any = SimpleNamespace(train=range(TRAIN))
    subset = Subset("imagenet", IDS, classifier.shape, classifier.label_space, "", lambda ids: None)  # type: ignore[arg-type,return-value]
    plan = Plan(load_suite("full"), classifier, subset, train, Store(Path(), create=False), cells=made)
    by_metric: dict[str, Passes] = {}
    for cell in made:
        by_metric[cell.metric.spec] = by_metric.get(cell.metric.spec, Passes()) + plan.passes(cell)
    return by_metric, sum(plan.map_passes(made), Passes())


def seconds_of(classifier: Classifier, batch: int = 8) -> tuple[float, float]:
    """CPU seconds of one thread per image, forward and backward: the least of five, the first of which warms up."""
    torch.set_num_threads(1)
    x = torch.rand(batch, *classifier.shape)
    forward, both = list[float](), list[float]()
    for _ in range(5):
        start = time.process_time()
        classifier.probabilities(x.detach())
        between = time.process_time()
        torch.autograd.grad(classifier(x.requires_grad_()).sum(), x)
        forward.append(between - start)
        both.append(time.process_time() - between)
    return min(forward) / batch, (min(both) - min(forward)) / batch


def days(passes: Passes, rate: float, backward: float) -> float:
    """Days of one processor at a rate in forward images per second; a backward pass counts ``backward`` forward ones."""
    return (passes.forward + backward * passes.backward) / rate / DAY


def shown(passes: Passes) -> list[str]:
    """Forward and backward passes in millions."""
    return [f"{count / 1e6:,.2f}" for count in (passes.forward, passes.backward)]


def stored(made: list[Cell], classifier: Classifier) -> float:
    """Bytes of the maps, float32."""
    images: dict[Method, int] = {}
    for cell in made:
        for method in cell.reads(classifier):
            images[method] = max(images.get(method, 0), len(cell.ids))
    return sum(images.values()) * 4 * classifier.shape[1] * classifier.shape[2]


def main() -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[500, 1000, 2000, 4000], help="forward images/s of a GPU")
    parser.add_argument("--backward", type=float, help="forward passes that a backward pass costs as much as")
    parser.add_argument("--methods", type=int, default=30, help="how many, those with the fewest passes first")
    parser.add_argument("--bytes", type=float, default=400, help="of a result file per image and cell")
    given = parser.parse_args()
    classifier = CLASSIFIERS.make(CLASSIFIER).load()
    forward, backward = seconds_of(classifier)
    factor = given.backward or backward / forward
    every = [METHODS.make(name) for name in METHODS.names()]
    apply = sorted((m for m in every if not m.not_applicable(classifier)), key=lambda m: m.cost_for(classifier).total)
    methods = apply[: given.methods]
    suite = load_suite("full")
    whole = {METRICS.make(name): IMAGES for name in METRICS.names()}
    some = {METRICS.make(run.spec): run.images or IMAGES for run in suite.metrics}
    fits = sum((m.fit_cost(classifier.shape) * (m.epochs * TRAIN) for m in methods if isinstance(m, TrainedMethod)), Passes())
    print("# ImageNet: what a full run takes\n")
    print(
        INTRO.format(
            methods=len(methods),
            apply=len(apply),
            metrics=len(whole),
            factor=f"{factor:.2f}",
            source="as given" if given.backward else "as measured on a CPU",
            rate=f"{1 / forward:.1f}",
        )
    )
    costs = [(m, m.cost_for(classifier)) for m in methods]
    print("The methods, with the forward and backward passes of a map: ", end="")
    print(", ".join(f"`{m.spec}` {cost.forward:,.0f} + {cost.backward:,.0f}" for m, cost in costs), end=".\n\n")
    for title, images in (
        (f"Every metric on all {IMAGES:,} images", whole),
        ("As many images as the suite `full` takes (20 to 200 a metric)", some),
    ):
        made = cells(methods, images, classifier)
        by_metric, maps = planned(made, classifier)
        total = sum(by_metric.values(), maps) + fits
        rate = given.rates[len(given.rates) // 2]
        rows = [["maps, made once and read by all metrics", "", maps], ["training the trained methods", "", fits]]
        rows += [[f"`{metric.spec}`", f"{count:,}", by_metric.get(metric.spec, Passes())] for metric, count in images.items()]
        rows += [["**all**", "", total]]
        print(f"## {title}\n")
        titles = ["", "images", "forward, 10^6", "backward, 10^6", f"GPU-days at {rate:,.0f}/s"]
        if images is whole:
            print(table([[a, b, *shown(p), f"{days(p, rate, factor):,.1f}"] for a, b, p in rows], titles, left=1))
        print(f"\nDays until all is done ({len(made):,} cells, the training of the trained methods included):\n")
        speeds = [(f"this CPU, one thread: {1 / forward:.1f}", 1 / forward)] + [(f"{r:,.0f}", r) for r in given.rates]
        counts = (1, 8, 64)
        print(
            table(
                [[name, *(f"{days(total, r, factor) / n:,.2f}" for n in counts)] for name, r in speeds],
                ["forward images per second of one GPU", *(f"{n} GPU{'s' if n > 1 else ''}" for n in counts)],
                left=1,
            )
        )
        results = sum(len(cell.ids) for cell in made) * given.bytes
        print(
            f"\nDisk: {stored(made, classifier) / 1e9:,.1f} GB of maps (float32; they may be deleted, and are then computed "
            f"again), {results / 1e9:.1f} GB of results\nat {given.bytes:.0f} bytes per image and cell, an assumption.\n"
        )


if __name__ == "__main__":
    main()

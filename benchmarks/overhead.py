"""What of the time of metrics and methods is not classifier passes.

``python benchmarks/overhead.py [--size 28 224] [--precision fp32]`` prints, a row a metric or method, how long it takes on
given maps without a store, over as many passes of the bare network in its fastest form, in alternation. Metrics that explain
again do so by the method in brackets.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from pairs import MODELS, Subject, bare_passes, seconds, spread, subject

from xbench import METHODS, METRICS, Explainer

METRICS_OF = {
    "area": "gradient",
    "deletion": "gradient",
    "insertion": "gradient",
    "game": "gradient",
    "low-k-kl": "gradient",
    "infidelity": "gradient",
    "saliency-metric(alpha=0.5)": "gradient",
    "stability": "gradient",
    "sensitivity-max": "gradient",
    "randomisation": "gradient",
    "consistency": "rise(masks=64)",
    "sensitivity": "smoothgrad",
    "filling(judge='{explained}')": "lime(samples=64, fill='blur')",  # by default digits are judged by another network
    "sample-realism(samples=64)": "lime(samples=64, fill='blur')",
}
METHODS_OF = {
    28: ["sliding-patch", "pda(samples=2)", "mp2", "fido(steps=10)"],
    224: [
        "sliding-patch(patch=32, stride=32)",
        "pda(stride=10, samples=1)",
        "mp2(upsample=32)",
        "fido(steps=4, samples=4, fill='blur')",
    ],
}
"""Of those whose number of passes at the defaults depends on the size."""
METHODS_OF_ANY = [
    "rise(masks=64)",
    "lime(samples=64)",
    "kernel-shap(samples=64)",
    "scorecam",
    "groupcam",
    "mp(iterations=10)",
    "extremal-perturbation(iterations=4)",
    "sas(iterations=4, steps=4)",
    "igos(iterations=2)",
    "igos++(iterations=1)",
    "perceptual-ball(iterations=10)",
]


def works(of: Subject) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    size = of.batch.x.shape[2]
    batch = dataclasses.replace(of.batch, boxes=[torch.tensor([[0.25, 0.25, 0.5, 0.5]]) * size] * len(of.batch))
    found: dict[str, Callable[[], object]] = {}
    for name, method in METRICS_OF.items():
        spec = name.format(explained=MODELS[size])
        metric, explainer = METRICS.make(spec), Explainer(METHODS.make(method), of.classifier)
        found[f"`{spec}` ({method})"] = lambda metric=metric, explainer=explainer: metric(explainer, batch, of.maps)
    return found | {f"`{spec}`": of.method(spec) for spec in METHODS_OF[size] + METHODS_OF_ANY}


def row(name: str, work: Callable[[], object], of: Subject, repeats: int) -> str:
    """Work and bare passes in alternation, after one of each that is not counted."""
    mine, bare = [], []
    for _ in range(repeats + 1):
        before = of.classifier.passes.copy()
        mine.append(seconds(work))
        passes = of.classifier.passes - before
        bare.append(seconds(lambda passes=passes: bare_passes(of, round(passes.forward), round(passes.backward))))
    ratios = [a / b for a, b in zip(mine[1:], bare[1:], strict=True)]
    counts = f"{passes.forward - passes.backward:g} | {passes.backward:g}"
    times = " | ".join(f"{statistics.median(values[1:]):.3f}" for values in (mine, bare))
    return f"| {name} | {counts} | {times} | {spread(ratios, 2)} |"


def main() -> None:
    """Prints a table for every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", type=int, choices=MODELS, default=list(MODELS))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="what has one of these in its name")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for size in options.size:
        images = {28: 100, 224: 4}[size]
        of = subject(size, images, options.precision)
        assert of.classifier.form is not None
        about = f"{images} x {size} px, {options.precision}, {options.threads} threads"
        print(f"\n{MODELS[size]} ({of.classifier.form.name}), {about}\n")
        print("| work | forward only | with gradient | seconds | bare passes | ratio |\n| --- | --- | --- | --- | --- | --- |")
        for name, work in works(of).items():
            if not options.only or any(part in name for part in options.only):
                print(row(name, work, of, options.repeats), flush=True)


if __name__ == "__main__":
    main()

"""What the numeric forms of a classifier gain, and how far their probabilities are from those of the plain network.

``python benchmarks/forms.py`` prints, a row a form, the milliseconds of an image without gradients at the batch size that is
fastest of those that a run tries, the largest difference of a probability on 64 images of noise
from the network in float32 and PyTorch's default layout ("eager"), and the seconds that it takes to make the form; then what a
long run chooses.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from pairs import LONG, MODELS, Plain

from xbench import CLASSIFIERS, Classifier, XbenchError
from xbench.form import NAMES, Name, make_form, noise_images
from xbench.run.form import batch_sizes, fastest
from xbench.run.machine import alternating

TITLES: dict[Name, str] = {"plain": "channels_last", "frozen": "frozen", "compiled": "compiled"}


def timed(function: Callable[[Tensor], Tensor], classifier: Classifier, sizes: list[int]) -> tuple[float, int]:
    """Median seconds of an image at its fastest batch size, and that size."""
    found = []
    for size in sizes:
        x = noise_images(classifier, size)
        (taken,) = alternating([lambda x=x: function(x)], classifier.device)
        found.append((statistics.median(taken) / size, size))
    return min(found)


def rows(spec: str) -> list[str]:
    """A row a form and precision."""
    eager = Plain(CLASSIFIERS.make(spec).load()).eval()
    classifier = CLASSIFIERS.make(spec).load()
    sizes, x = batch_sizes(classifier), noise_images(classifier, 64)
    expected = eager(x).softmax(1)
    best, size = timed(eager, classifier, sizes)
    lines = [f"| eager | fp32 | {1e3 * best:.3f} | {size} | | |"]
    for precision in ("fp32", "bf16"):
        classifier.precision = precision
        for name in NAMES:
            tried = []
            for count in sizes if name == "compiled" else sizes[:1]:  # which is made for one size
                start = time.perf_counter()
                try:
                    form = make_form(classifier, name, count)
                except XbenchError as error:
                    lines.append(f"| {TITLES[name]} | {precision} | {error} | | | |")
                    break
                making = time.perf_counter() - start
                best, size = timed(form, classifier, [count] if name == "compiled" else sizes)
                off = float((torch.cat([form(part) for part in x.split(size)]).softmax(1) - expected).abs().max())
                tried.append((best, f"{1e3 * best:.3f} | {size} | {off:.0e} | {making:.1f}"))
            if tried:
                lines.append(f"| {TITLES[name]} | {precision} | {min(tried)[1]} |")
    return lines


@torch.no_grad()
def main() -> None:
    """Prints a table for every classifier."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for spec in MODELS.values():
        print(f"\n{spec}, {options.threads} threads\n")
        print("| form | precision | ms an image | batch size | largest difference | seconds to make |")
        print("| --- | --- | --- | --- | --- | --- |")
        print("\n".join(rows(spec)), flush=True)
        classifier = CLASSIFIERS.make(spec).load()
        for precision in ("fp32", "bf16"):
            classifier.precision = precision
            choice = fastest(classifier, LONG, compiling=True)
            print(f"\nA long run in {precision} chooses: {choice.name}, {choice.batch_size} images at a time.")


if __name__ == "__main__":
    main()

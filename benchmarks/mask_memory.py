"""How much memory methods with thousands of masks take beyond the images and the classifier.

python benchmarks/mask_memory.py

Each method explains one batch in a process of its own, on a tiny classifier, so that what is measured is the method's.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch

from xbench import METHODS, Explainer
from xbench.testing import tiny_batch, tiny_classifier

MASKS = {"rise": "masks", "lime": "samples", "kernel-shap": "samples"}
"""Methods whose masks are many, with the parameter that counts them; those that are registered are measured."""
LIMIT = 2.0


def main() -> None:
    """Prints the table; exit status 1 if a method takes 2 GiB or more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--images", type=int, default=4, help="of the batch")
    parser.add_argument("--masks", type=int, default=8000)
    parser.add_argument("-m", "--method", action="append", help="a spec to measure instead (several times for several)")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # measured in this process
    options = parser.parse_args()
    if options.one:
        print(*measured(options.one, options.size, options.images))
        return
    known = METHODS.names()
    specs = options.method or [f"{name}({count}={options.masks})" for name, count in MASKS.items() if name in known]
    whole = options.masks * options.size**2 * 4 / 2**30
    print(f"{options.images} images of 3 x {options.size} x {options.size} px; {options.masks} masks are {whole:.2f} GiB\n")
    print("| method | peak memory beyond the data, GiB | seconds |\n| --- | --- | --- |")
    worst = 0.0
    for spec in specs:
        command = [sys.executable, __file__, "--one", spec, "--size", str(options.size), "--images", str(options.images)]
        peak, seconds = map(float, subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split())
        print(f"| `{spec}` | {peak:.2f} | {seconds:.0f} |", flush=True)
        worst = max(worst, peak)
    sys.exit(worst >= LIMIT)


def measured(spec: str, size: int, images: int) -> tuple[float, float]:
    """Growth of the process' largest resident size in GiB and the seconds that a batch takes."""
    classifier = tiny_classifier((3, size, size))
    batch = tiny_batch(images, classifier)
    explainer = Explainer(METHODS.make(spec), classifier)
    before, start = peak_bytes(), time.perf_counter()
    explainer(batch.x, batch.target, batch.ids)
    return (peak_bytes() - before) / 2**30, time.perf_counter() - start


def peak_bytes() -> int:
    """Largest resident size that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the memory of the threads' own buffers is not the method's
    main()

"""The same work by us and by other packages, in alternation in one process: how many times as long they take.

python benchmarks/peers
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))  # not done by Python itself under PYTHONSAFEPATH

from pairs import MODELS, measured, subject

PEERS = {
    "quantus": "quantus",
    "captum": "captum",
    "torchcam": "torchcam",
    "grad_cam": "grad-cam",
    "lime": "lime",
    "torchray": "torchray",
}


def main() -> None:
    """Prints a table for every size and precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--size", nargs="+", type=int, choices=MODELS, default=list(MODELS))
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"], help="of our side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of both sides")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", *(PEERS[p] for p in options.peer))))
    for size in options.size:
        images = {28: 16, 224: 1}[size]
        for precision in options.precision:
            of = subject(size, images, precision)
            assert of.classifier.form is not None
            form = f"{of.classifier.form.name} in {of.making:.1f} s, {of.classifier.form.batch_size} images at a time"
            print(f"\n{MODELS[size]} ({form}), {images} x {size} px, {precision}, {options.threads} threads\n")
            header = ["ours", "theirs", "seconds", "theirs", "theirs / ours", "ours / its bare passes"]
            print("| " + " | ".join(header) + " |\n|" + " --- |" * len(header), flush=True)
            for peer in options.peer:
                for pair in importlib.import_module(f"of_{peer}").pairs(of):
                    with contextlib.redirect_stdout(sys.stderr):
                        try:
                            cells = measured(pair, of, options.repeats).cells()
                        except Exception as error:  # whatever a peer may raise
                            cells = [f"{type(error).__name__}: {error}".splitlines()[0]]
                    print("| " + " | ".join([pair.work, pair.peer, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()

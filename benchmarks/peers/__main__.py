"""The same work by us and by other packages, in alternation: how many times as long they take.

python benchmarks/peers
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # not done by Python itself under PYTHONSAFEPATH

from pairs import MODELS, spread
from sides import Side

PEERS = {
    "quantus": "quantus",
    "captum": "captum",
    "torchcam": "torchcam",
    "grad_cam": "grad-cam",
    "lime": "lime",
    "torchray": "torchray",
}
IMAGES = {28: 16, 224: 1}


def main() -> None:
    """Prints a table for every size and precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--size", nargs="+", type=int, choices=MODELS, default=list(MODELS))
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"], help="of our side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of both sides")
    options = parser.parse_args()
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", *(PEERS[p] for p in options.peer))))
    for size in options.size:
        for precision in options.precision:
            settings = {"size": size, "images": IMAGES[size], "precision": precision, "threads": options.threads}
            with (
                contextlib.closing(Side(mine=True, **settings)) as ours,
                contextlib.closing(Side(mine=False, **settings)) as theirs,
            ):
                print(f"\n{MODELS[size]} ({ours.form}), {IMAGES[size]} x {size} px, {precision}, {options.threads} threads\n")
                header = ["ours", "theirs", "seconds", "theirs", "theirs / ours", "ours / its bare passes"]
                print("| " + " | ".join(header) + " |\n|" + " --- |" * len(header), flush=True)
                for peer in options.peer:
                    theirs.pairs(peer)
                    for number, names in enumerate(ours.pairs(peer)):
                        try:
                            cells = measured(ours, theirs, number, options.repeats)
                        except RuntimeError as error:
                            cells = [str(error)]
                        print("| " + " | ".join([*names, *cells]) + " |", flush=True)


def measured(ours: Side, theirs: Side, number: int, repeats: int) -> list[str]:
    """Ours, its bare passes and theirs, in alternation, after one of each that is not counted: the columns of the table."""
    found = [(*ours.run(number), theirs.run(number)[0]) for _ in range(repeats + 1)][1:]
    mine, bare, other = zip(*found, strict=True)
    ratios = [b / a for a, b in zip(mine, other, strict=True)]
    overheads = [a / b for a, b in zip(mine, bare, strict=True)]
    return [*(f"{statistics.median(values):.2f}" for values in (mine, other)), spread(ratios, 1), spread(overheads, 2)]


if __name__ == "__main__":
    main()

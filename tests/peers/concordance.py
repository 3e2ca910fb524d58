"""Our metrics beside those of other packages, on the same images and maps.

`tox -e concordance` prints the page docs/concordance.md; with its packages installed, python tests/peers/concordance.py does.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # not done by Python itself under PYTHONSAFEPATH

from concordance_changes import change_rows
from concordance_maps import map_rows
from concordance_removal import removal_rows
from concordance_rows import IMAGES, METHOD_SPECS, TOLERANCE, Row

HEADER = [
    "xbench",
    "peer",
    "ours, mean",
    "theirs, mean",
    "largest difference",
    "same",
    "setting, or what the peer computes instead",
]
INTRO = """# Concordance with other packages

Printed by `tox -e concordance`: {images} digits, the classifier `mnist-cnn`, the maps of `{methods}`
(with a little noise, so that there are no ties), and {versions}.
Where the peer can be set to compute the same thing (same: yes), no value of an image, of a map or at a point of a curve
differs by more than {tolerance:g}; a test of `tox -e peers` checks it. Where it computes something else (same: no), the last
column says what; these rows are for who compares numbers across papers.

"""
PACKAGES = ("quantus", "torchcam", "grad-cam", "captum")


def rows() -> list[Row]:
    """Every row; what the packages print goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [*removal_rows(), *map_rows(), *change_rows()]


def page(found: list[Row]) -> str:
    """The page of the documentation."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return INTRO.format(
        images=IMAGES, methods="` and `".join(METHOD_SPECS), versions=versions, tolerance=TOLERANCE
    ) + "\n".join("| " + " | ".join(cells) + " |" for cells in [HEADER, ["---"] * len(HEADER), *(row.cells() for row in found)])


if __name__ == "__main__":
    print(page(rows()))

"""The features of a pass get the pages that the pass before has freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from xbench.testing import tiny_classifier

tiny_classifier()
for layers in (3, 2, 8, 1):
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        features = [torch.empty(24 * 2**20, dtype=torch.uint8).fill_(1) for _ in range(layers)]
        del features
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_buffers_are_used_again() -> None:
    """However many are in use at once: the first of 8 passes may need fresh pages (6144 a buffer), the last may not."""
    printed = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    assert [int(faults) < 100 for faults in printed.split()] == [True] * 4, printed

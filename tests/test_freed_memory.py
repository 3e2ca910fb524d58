"""Buffers of one size, as the features of a batch are, do not get fresh pages in every pass."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from xbench.testing import tiny_classifier

if sys.argv[1] == "with":
    tiny_classifier()
torch.empty(26 * 2**20, dtype=torch.uint8).fill_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.empty(26 * 2**20, dtype=torch.uint8).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_buffers_are_used_again() -> None:
    words = [sys.executable, "-c", FAULTS]
    fresh, kept = (
        int(subprocess.run([*words, how], capture_output=True, text=True, check=True).stdout) for how in ("without", "with")
    )
    assert kept < 0.1 * fresh

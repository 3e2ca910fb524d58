"""Seconds and memory of a call on a device."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Wall time of a call until the device has finished what it was given."""
    _synchronise(device)
    start = time.perf_counter()
    call()
    _synchronise(device)
    return time.perf_counter() - start


def peak_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """By how many MiB memory grows at most during a call; None where the system does not tell.

    On CUDA: the tensors that torch's allocator holds at the peak, above those before. On a CPU, under Linux only: the peak of
    the process's resident memory above that before, whoever takes it; memory that was freed is first given back to the system,
    as far as the C library can, else the call would reuse it unseen.
    """
    gc.collect()
    if device.type == "cuda":
        _synchronise(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        _synchronise(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if REFERENCES.exists() else None
    if device.type != "cpu" or trim is None:
        call()
        return None
    trim(0)
    try:
        REFERENCES.write_text("5")  # the peak starts again at what is resident now
    except OSError:
        call()
        return None
    resident = _status("VmRSS")
    call()
    return max(0.0, _status("VmHWM") - resident)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _status(name: str) -> float:
    """A line of the process's status, in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return float(line.split()[1]) / 1024

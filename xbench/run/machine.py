"""The machine that a run computes on: what it is, and how fast."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import subprocess
import time
from pathlib import Path

import torch

import xbench
from xbench import __version__
from xbench.classifier import Classifier


@functools.cache
def machine(device: str) -> dict[str, str]:
    """Device, processor and versions, for a result's record."""
    versions = {package: importlib.metadata.version(package) for package in ("torch", "captum", "numpy")}
    about = {**hardware(device), "python": platform.python_version(), "xbench": __version__, **versions}
    commit = revision()
    return {**about, "revision": commit} if commit else about


@functools.cache
def revision() -> str:
    """The commit of the checkout that xbench runs from, with "-dirty" where something is not committed; "" without one."""
    root = Path(xbench.__file__).resolve().parents[1]
    if not ((root / "pyproject.toml").exists() and (root / ".git").exists()):
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def hardware(device: str) -> dict[str, str]:
    """Device, processor and threads: what times and memory depend on, for the keys of results that are measured."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    return {"device": device, "name": name, "threads": str(torch.get_num_threads())}


@functools.cache
def _processor() -> str:
    """The processor's model where Linux tells it, else what Python knows of it."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def measured_speed(classifier: Classifier) -> tuple[float, float]:
    """Seconds per image of a forward pass, and of a backward pass on top, measured in a moment on its device."""
    passes = classifier.passes.copy()
    x = torch.rand((classifier.batch_size, *classifier.shape), device=classifier.device)
    forward = _median_seconds(lambda: classifier.probabilities(x)) / len(x)
    x.requires_grad_()
    both = _median_seconds(lambda: torch.autograd.grad(classifier(x).sum(), x)) / len(x)
    classifier.passes = passes
    return forward, max(both - forward, 0.0)


def _median_seconds(call: object) -> float:
    assert callable(call)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[1]

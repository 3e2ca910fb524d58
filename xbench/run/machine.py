"""The machine that a run computes on: what it is, and how fast."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import math
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import xbench
from xbench import __version__
from xbench.batches import out_of_memory
from xbench.classifier import Classifier, Passes


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


@dataclasses.dataclass(frozen=True)
class Speed:
    """Seconds of classifier passes, per image in full batches; zero where nothing is to be predicted.

    ``forward`` is of a pass without gradients, ``gradient`` of a forward and a backward pass, and ``call`` what the latter
    takes beside that for a batch of its own, however few its images are.
    """

    forward: float = 0.0
    gradient: float = 0.0
    call: float = 0.0

    def seconds(self, passes: Passes, together: float = math.inf) -> float:
        """Seconds of some passes, those with gradients ``together`` images at a time."""
        alone = max(passes.forward - passes.backward, 0.0)
        return alone * self.forward + passes.backward * (self.gradient + self.call / together)


def measured_speed(classifier: Classifier, forward: float | None = None) -> Speed:
    """The speed of passes, measured in a moment.

    ``forward`` is the speed without gradients, where it is known of the form that the classifier will have.
    """
    passes = classifier.passes.copy()
    x = torch.rand((classifier.batch_size, *classifier.shape), device=classifier.device)
    if forward is None:
        forward = seconds(lambda: classifier.probabilities(x), classifier.device) / len(x)
    while True:
        x = x[: classifier.batch_size].detach().requires_grad_()
        try:
            gradient = seconds(functools.partial(_differentiate, classifier, x), classifier.device) / len(x)
            break
        except (RuntimeError, MemoryError) as error:
            if not (out_of_memory(error) and classifier.halve(len(x))):
                raise
    one = x[:1].detach().requires_grad_()
    call = seconds(functools.partial(_differentiate, classifier, one), classifier.device) - gradient
    classifier.passes = passes
    return Speed(forward, gradient, max(call, 0.0))


def _differentiate(classifier: Classifier, x: Tensor) -> None:
    torch.autograd.grad(classifier(x).sum(), x)


def seconds(call: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The least time of some calls after two that warm up, the device's work included.

    On a CPU the time that the calling thread was computing, which other programs on the machine do not stretch.
    """
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    taken = []
    for _ in range(2 + repeats):
        start = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(clock() - start)
    return min(taken[2:])

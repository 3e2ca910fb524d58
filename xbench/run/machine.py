"""The machine that a run computes on: what it is, and how fast."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import math
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import xbench
from xbench import __version__
from xbench.batches import out_of_memory
from xbench.classifier import Classifier, Passes
from xbench.perturb import probability_of, stream

LONG_ENOUGH = 1.0
"""Seconds for which something is measured (own decision: a run of a few seconds should not wait longer for its prediction)."""
MASKS = 64
"""Different masks under which passes are measured."""


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

    ``forward`` is of an image that is masked, filled and passed without gradients, ``gradient`` of a forward and a backward
    pass, and ``call`` what the latter takes beside that for a batch of its own, however few its images are.
    """

    forward: float = 0.0
    gradient: float = 0.0
    call: float = 0.0

    def seconds(self, passes: Passes, together: float = math.inf) -> float:
        """Seconds of some passes, those with gradients ``together`` images at a time."""
        alone = max(passes.forward - passes.backward, 0.0)
        return alone * self.forward + passes.backward * (self.gradient + self.call / together)


def measured_speed(classifier: Classifier, share: float = 1.0) -> Speed:
    """The speed of passes, measured in a moment.

    ``share`` is what a pass without gradients takes in the form that the classifier will have, of one as it is.
    """
    passes, device = classifier.passes.copy(), classifier.device
    masks = torch.rand((MASKS, 1, *classifier.shape[1:]), generator=torch.Generator().manual_seed(0)).to(device)
    while True:
        x = torch.full((classifier.batch_size, *classifier.shape), 0.5).to(classifier.mean)
        one = x[:1].clone().requires_grad_()
        some = x.clone().requires_grad_()
        works: list[Callable[[], object]] = [
            functools.partial(classifier.predict, x),
            functools.partial(_stream, classifier, x[0], masks),
            functools.partial(_differentiate, classifier, some),
            functools.partial(_differentiate, classifier, one),
        ]
        try:
            alone, streamed, gradient, call = (statistics.median(taken) for taken in alternating(works, device))
            break
        except (RuntimeError, MemoryError) as error:
            if not (out_of_memory(error) and classifier.halve(len(x))):
                raise
    classifier.passes = passes
    alone, gradient = alone / len(x), gradient / len(x)
    beside = max(streamed / classifier.stream_size - alone, 0.0)
    return Speed(share * alone + beside, gradient, max(call - gradient, 0.0))


def _stream(classifier: Classifier, image: Tensor, masks: Tensor) -> None:
    """A full batch of an image under masks, as most metrics and methods ask for them."""
    gray, label = classifier.gray, torch.zeros(1, dtype=torch.int64, device=masks.device)
    stream(
        classifier,
        image[None],
        classifier.stream_size,
        lambda _image, step: masks[step % len(masks)],
        lambda _image, _step, _keep: gray,
        probability_of(label),
    )


def _differentiate(classifier: Classifier, x: Tensor) -> None:
    torch.autograd.grad(classifier(x).sum(), x)


def alternating(calls: Sequence[Callable[[], object]], device: torch.device) -> list[list[float]]:
    """The seconds of each of some calls, made in turn so that a machine that slows down does so for all of them.

    After one round that warms up, as many as take `LONG_ENOUGH` seconds, at least two: single ones are far off at times.
    """
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < 3 or time.perf_counter() - start < LONG_ENOUGH:
        rounds.append([once(call, device) for call in calls])
    return [list(taken) for taken in zip(*rounds[1:], strict=True)]


def once(call: Callable[[], object], device: torch.device) -> float:
    """The seconds of a call, the device's work included.

    On a CPU the time that the calling thread was computing, which other programs on the machine do not stretch.
    """
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    start = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start

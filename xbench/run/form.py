"""Which numeric form of the classifier a run computes in: measured, and chosen once per store, weights and device."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from xbench.batches import default_batch_size, out_of_memory
from xbench.classifier import Classifier, Passes
from xbench.errors import XbenchError
from xbench.files import atomic, user_cache
from xbench.form import NAMES, Form, Name, make_form
from xbench.registry import digest
from xbench.run.cells import Plan
from xbench.run.claims import claim
from xbench.run.machine import Speed, alternating, hardware, measured_speed, once

WORTH = 60.0
"""Seconds of planned passes below which nothing is measured and the network stays as it is (own decision)."""
COMPILING = 30.0
"""Seconds that compiling is thought to take where it was not measured yet (own decision)."""
GAIN = 0.95
"""A form must take at most this share of the time of the plainer one (own decision: what is less is noise)."""

Measured = dict[str, dict[str, float]]
"""By form: an image's time by batch size, as a share of what the network as it is takes in batches of the default size, and
"making", the seconds that the form took to make; no size if it cannot be used."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A form by name, its batch size, and its time as a share of that of the network as it is, measured when it was chosen."""

    name: Name
    batch_size: int
    share: float = 1.0


def planned_speed(plan: Plan, *, only_look: bool = False) -> Speed:
    """The speed of passes in the form that the plan's run will have; see `choose` on ``only_look``."""
    if not plan.todo:
        return Speed()
    choice = choose(plan, only_look=only_look)
    return measured_speed(plan.classifier, choice.share if choice else 1.0)


def use_form(plan: Plan) -> None:
    """Gives the plan's classifier the form in which its store is computed; it stays plain where that cannot be made here."""
    classifier = plan.classifier
    choice = choose(plan)
    if choice is None or classifier.form is not None:
        return
    try:
        classifier.form = make_form(classifier, choice.name, choice.batch_size)
    except XbenchError as error:
        plan.store.report(str(error))


@contextlib.contextmanager
def without_form(classifier: Classifier) -> Iterator[None]:
    """Plain within the block: what a map costs should not depend on how many others were planned beside it."""
    form, classifier.form = classifier.form, None
    try:
        yield
    finally:
        classifier.form = form


def choose(plan: Plan, *, only_look: bool = False) -> Choice | None:
    """The form for a plan: the store's, or the fastest for as many passes as are planned, which the store then keeps.

    None where the planned passes take less than `WORTH` seconds: such a run, and one that resumes it, measures nothing.
    ``only_look`` neither keeps the choice nor compiles anything that was not compiled on this machine before.
    """
    classifier, store = plan.classifier, plan.store
    name, device, precision = classifier.weights_digest, str(classifier.device), classifier.precision

    def kept() -> Choice | None:
        found = store.form(name, device).get(precision)
        return Choice(found["name"], found["batch_size"], found.get("share", 1.0)) if found else None

    if (found := kept()) is not None or not plan.todo:
        return found
    planned = streamed(plan.total_passes) * _seconds_now(classifier)
    if planned < WORTH:
        return None
    if only_look:
        return fastest(classifier, planned, compiling=False)
    while True:
        with claim(store.root / "claims", "form") as mine:  # of several runs on one store one chooses
            if mine:
                if (found := kept()) is None:
                    found = fastest(classifier, planned, compiling=True)
                    store.keep_form(name, device, {precision: dataclasses.asdict(found)})
                return kept() or found  # as the file has it, so that all runs have the same
        time.sleep(0.5)


def fastest(classifier: Classifier, planned: float, *, compiling: bool) -> Choice:
    """The form in which passes take least time that take ``planned`` seconds as the network is, measured here now or earlier.

    Without ``compiling``, nothing is compiled to be measured. Raises XbenchError if not even one image fits into memory.
    """
    sizes = batch_sizes(classifier)
    about = [classifier.weights_digest, hardware(str(classifier.device)), classifier.precision, torch.__version__, sizes]
    path = user_cache() / "shares" / f"{digest(about)[:16]}.json"
    known = _read(path)
    best: Choice | None = None
    for name in NAMES:
        left = planned * best.share if best else 0.0
        if name not in known and name == "compiled" and not (compiling and left / 2 > COMPILING):
            continue
        if name not in known:
            # Compiled for the size that suits the other forms only: every size would have to be compiled for.
            known[name] = _measure(classifier, name, [best.batch_size] if best and name == "compiled" else sizes)
            with atomic(path) as temporary:
                temporary.write_text(json.dumps(known))
        times = {int(size): value for size, value in known[name].items() if size != "making"}
        if not times:
            continue
        size = min(times, key=times.__getitem__)
        cost = known[name]["making"] if name == "compiled" else 0.0
        if best is None or (times[size] < GAIN * best.share and cost + planned * times[size] < left):
            best = Choice(name, size, times[size])
    if best is None:
        raise XbenchError(f"{classifier.name}: not even one image at a time fits into the memory of {classifier.device}")
    return best


def batch_sizes(classifier: Classifier) -> list[int]:
    """The batch sizes that are tried: only the one that was asked for, or some around the default."""
    asked = classifier.chosen_batch_size
    default = default_batch_size(classifier.shape, str(classifier.device))
    return [asked] if asked != default else [max(1, asked // 4), max(1, asked // 2), asked, 2 * asked]


def streamed(passes: Passes) -> float:
    """How many forward passes no backward pass belongs to."""
    return max(passes.forward - passes.backward, 0.0)


def _measure(classifier: Classifier, name: Name, sizes: list[int]) -> dict[str, float]:
    """A form's share at every batch size that fits into memory, and the seconds of making it; no sizes if it cannot be used."""
    times = {"making": 0.0}
    form = None
    for size in sizes:
        try:
            if form is None:
                start = time.perf_counter()
                form = make_form(classifier, name, size)
                times["making"] = time.perf_counter() - start
            times[str(size)] = _share_of(form, classifier, size)
        except XbenchError:  # nor larger ones, if memory ran out
            break
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
    return times


def _share_of(form: Form, classifier: Classifier, size: int) -> float:
    passes = classifier.passes.copy()
    x = torch.full((size, *classifier.shape), 0.5).to(classifier.mean)
    plain, count = _plain(classifier)
    with torch.no_grad():
        mine, others = alternating([lambda: form(x), plain], classifier.device)
    classifier.passes = passes
    return statistics.median(a / b for a, b in zip(mine, others, strict=True)) * count / size


def _seconds_now(classifier: Classifier) -> float:
    """Seconds of an image as the classifier is, roughly."""
    passes = classifier.passes.copy()
    plain, count = _plain(classifier)
    taken = min(once(plain, classifier.device) for _ in range(3)) / count
    classifier.passes = passes
    return taken


def _plain(classifier: Classifier) -> tuple[Callable[[], object], int]:
    """A pass of the network as it is, and its number of images."""
    x = torch.full((classifier.batch_size, *classifier.shape), 0.5).to(classifier.mean)
    return lambda: classifier.probabilities(x), len(x)


def _read(path: Path) -> Measured:
    try:
        content: Any = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

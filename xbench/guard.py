"""What must stay as it is: the classifier that everything is measured on, and the time that a piece of work may take."""

from __future__ import annotations

import contextlib
import copy
import signal
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from xbench.classifier import Classifier
from xbench.errors import XbenchError
from xbench.weights import state_digest


class TooLong(Exception):
    """A piece of work takes more time than it may.

    No TimeoutError, which is an OSError: a deadline that ends while a file is read or written says nothing of the file.
    """


def classifier_state(classifier: Classifier) -> dict[str, Any]:
    """Every property of a classifier that an entry could change by mistake, by a name fit for a message."""
    values = _values(classifier)
    return _properties(classifier, values) | {name: state_digest({"": tensor}) for name, tensor in values.items()}


def _properties(classifier: Classifier, values: dict[str, Tensor]) -> dict[str, Any]:
    """All but the values of its tensors."""
    state: dict[str, Any] = {
        "the classifier's batch_size": classifier.chosen_batch_size,
        "the classifier's precision": classifier.precision,
        "the classifier's form": id(classifier.form),
    }
    for name, module in classifier.named_modules():
        label = name or "the classifier"
        state[f"training mode of {label}"] = module.training
        state[f"type of {label}"] = type(module)
        state[f"forward function of {label}"] = module.__dict__.get("forward")
        state[f"hooks of {label}"] = {
            key: tuple(hooks) for key, hooks in vars(module).items() if key.endswith("_hooks") and hooks
        }
    for name, tensor in values.items():
        state[name.replace("value", "requires_grad", 1)] = tensor.requires_grad
        state[name.replace("value", "gradient", 1)] = None if tensor.grad is None else state_digest({"": tensor.grad})
    return state


def _values(classifier: Classifier) -> dict[str, Tensor]:
    parameters = {f"value of parameter {name}": tensor for name, tensor in classifier.named_parameters()}
    return parameters | {f"value of buffer {name}": tensor for name, tensor in classifier.named_buffers()}


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what differs between two states."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


class Guard:
    """Keeps a copy of a classifier, so that what changes it does no harm to what is computed afterwards."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._copy = copy.deepcopy(classifier)
        self._form = classifier.form  # copies have none
        self._kept = _values(self._copy)
        self._state = _properties(classifier, _values(classifier))

    def check(self) -> None:
        """XbenchError naming what of the classifier has changed, after putting it back."""
        now, kept = _values(self._classifier), self._kept
        values = [name for name in {**kept, **now} if not (name in now and name in kept and _same(now[name], kept[name]))]
        if changed := changes(self._state, _properties(self._classifier, now)) + values:
            fresh = copy.deepcopy(self._copy)
            fresh.passes = self._classifier.passes  # what was counted stays counted
            fresh.form = self._form
            fresh.fitting_batch_size = self._classifier.fitting_batch_size
            self._classifier.__dict__.update(fresh.__dict__)
            self._state = _properties(self._classifier, _values(self._classifier))
            listed = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise XbenchError(f"does not leave the classifier as found: {listed}")


def _same(tensor: Tensor, kept: Tensor) -> bool:
    """Whether two tensors hold the same; the digest, which is slow, is asked only where they seem not to (NaN)."""
    alike = (tensor.device, tensor.dtype, tensor.shape) == (kept.device, kept.dtype, kept.shape)
    return (alike and tensor.equal(kept)) or state_digest({"": tensor}) == state_digest({"": kept})


@contextlib.contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raises TooLong in the block once it has taken ``seconds``; None: never.

    By the alarm signal: in the main thread of a process, on a system that has it, and between two steps of Python: a single
    call of a library is not cut short.
    """
    if seconds is None:
        yield
        return

    def late(_signal: int, _frame: object) -> None:
        raise TooLong(f"took longer than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)

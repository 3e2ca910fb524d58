"""What must stay as it is: the classifier that everything is measured on, and the time that a piece of work may take."""

from __future__ import annotations

import contextlib
import copy
import signal
from collections.abc import Iterator
from typing import Any

from xbench.classifier import Classifier
from xbench.errors import XbenchError
from xbench.weights import state_digest


def classifier_state(classifier: Classifier) -> dict[str, Any]:
    """Every property of a classifier that an entry could change by mistake, by a name fit for a message."""
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
    for kind, tensors in (("parameter", classifier.named_parameters()), ("buffer", classifier.named_buffers())):
        for name, tensor in tensors:
            state[f"value of {kind} {name}"] = state_digest({"": tensor})
            state[f"requires_grad of {kind} {name}"] = tensor.requires_grad
            state[f"gradient of {kind} {name}"] = None if tensor.grad is None else state_digest({"": tensor.grad})
    return state


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what differs between two states."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


class Guard:
    """Keeps a copy of a classifier, so that what changes it does no harm to what is computed afterwards."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._copy = copy.deepcopy(classifier)
        self._form = classifier.form  # copies have none
        self._state = classifier_state(classifier)

    def check(self) -> None:
        """XbenchError naming what of the classifier has changed, after putting it back."""
        if changed := changes(self._state, classifier_state(self._classifier)):
            fresh = copy.deepcopy(self._copy)
            fresh.passes = self._classifier.passes  # what was counted stays counted
            fresh.form = self._form
            fresh.fitting_batch_size = self._classifier.fitting_batch_size
            self._classifier.__dict__.update(fresh.__dict__)
            self._state = classifier_state(self._classifier)
            listed = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise XbenchError(f"does not leave the classifier as found: {listed}")


@contextlib.contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raises TimeoutError in the block once it has taken ``seconds``; None: never.

    By the alarm signal: in the main thread of a process, on a system that has it, and between two steps of Python: a single
    call of a library is not cut short.
    """
    if seconds is None:
        yield
        return

    def late(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"took longer than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)

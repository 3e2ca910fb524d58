"""What an entry must leave as it found it: the classifier and the process's global state."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xbench.classifier import Classifier
from xbench.rng import global_seed as global_seed


def snapshot(classifier: Classifier) -> dict[str, Any]:
    """Every property of the classifier and of the process that an entry could change, by a name fit for a message."""
    numpy_state = np.random.get_state(legacy=False)
    state: dict[str, Any] = {
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's global random state": _bytes(torch.get_rng_state()),
        "numpy's global random state": repr(numpy_state["state"]["key"].tolist()) + str(numpy_state["state"]["pos"]),
        "Python's global random state": random.getstate(),
        "the classifier's batch_size": classifier.batch_size,
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
            state[f"value of {kind} {name}"] = _bytes(tensor)
            state[f"requires_grad of {kind} {name}"] = tensor.requires_grad
            state[f"gradient of {kind} {name}"] = None if tensor.grad is None else _bytes(tensor.grad)
    return state


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what differs between two snapshots."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()

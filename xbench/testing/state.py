"""What an entry must leave as it found it: the classifier and the process's global state."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xbench.classifier import Classifier
from xbench.guard import classifier_state
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
    }
    return state | classifier_state(classifier)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()

"""Weights in files of the user's own: read without running code, and compared with the network that they are for."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from xbench.errors import XbenchError

TORCH = (".bin", ".ckpt", ".pt", ".pth", ".tar")
"""Endings of files that ``torch.save`` wrote; any other file is read as safetensors."""
NESTED = ("state_dict", "model_state_dict", "model")
"""Where training scripts keep the weights in a checkpoint."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of one that ``torch.save`` wrote: a state dict, or a dict that has one inside.

    Raises XbenchError if the file is missing or damaged, or if it holds anything that would have to be unpickled.
    """
    try:
        if path.suffix not in TORCH:
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise XbenchError(f"weights file {path} does not exist") from error
    except pickle.UnpicklingError as error:
        raise XbenchError(
            f"weights file {path} is damaged, or holds more than tensors, which could run code: save the state_dict() alone"
        ) from error
    except (safetensors.SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise XbenchError(f"weights file {path} is damaged or no file of weights ({str(error).splitlines()[0]})") from error
    inside = [content[key] for key in NESTED if isinstance(content, dict) and isinstance(content.get(key), dict)]
    state = inside[0] if inside else content
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise XbenchError(f"weights file {path} holds no state dict: it needs names with tensors")
    return state


def load_state(state: Mapping[str, Tensor], build: Callable[[int | None], nn.Module], classes: int | None) -> nn.Module:
    """The network that ``build`` makes for a number of logits, with the weights of ``state``, in float32.

    Where ``classes`` is None they are counted: by the rows of the one layer whose shape is another than in ``build(None)``. A
    prefix that all names share is taken off (``module.`` and the like). XbenchError naming what does not fit.
    """
    module = build(classes)
    expected = module.state_dict()
    heads = {name.partition(".")[0] for name in state}
    if len(heads) == 1 and not set(state) & set(expected):
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}
    if classes is None:
        other = [n for n, t in expected.items() if n in state and state[n].shape != t.shape]
        rows = {int(state[n].shape[0]) for n in other if state[n].ndim and state[n].shape[1:] == expected[n].shape[1:]}
        if other and len(rows) == 1 and len({n.rpartition(".")[0] for n in other}) == 1:
            module = build(rows.pop())
    module.load_state_dict(fitting(state, module))
    return module


def fitting(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The state in float32; XbenchError, "it misses ...", unless its names and shapes are those of ``module``."""
    # Batch norm's counter matters in training only, and not every file has it.
    counters = {name for name in module.state_dict() if name.endswith("num_batches_tracked")}
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if name not in counters}
    given = {name: tuple(tensor.shape) for name, tensor in state.items() if name not in counters}
    problems = [
        ("misses", [name for name in expected if name not in given]),
        ("has the unexpected", [name for name in given if name not in expected]),
        (
            "has other shapes:",
            [f"{name} {given[name]} instead of {shape}" for name, shape in expected.items() if given.get(name, shape) != shape],
        ),
    ]
    found = [f"{what} {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}" for what, names in problems if names]
    if found:
        raise XbenchError(f"it {'; it '.join(found)}")
    values: dict[str, Any] = {name: state[name] for name in expected}
    floats = {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
    return floats | {name: torch.tensor(0) for name in counters}

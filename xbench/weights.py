"""Network weights on disk: safetensors with a verified digest and readable metadata; never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from xbench.errors import XbenchError
from xbench.files import atomic


def state_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values of a state dict, whatever device it lies on."""
    sha = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        data = tensor.detach().cpu().contiguous()
        sha.update(f"{key} {data.dtype} {tuple(data.shape)}".encode())
        sha.update(data.numpy().tobytes())
    return sha.hexdigest()


def save_weights(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Writes a state dict with its digest and ``about`` (any JSON) as metadata; no half-written file is ever seen."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    metadata = {"sha256": state_digest(tensors), "about": json.dumps(about, sort_keys=True)}
    content = safetensors.torch.save(tensors, metadata)
    # The library writes the entries of the header in any order; sorted, equal weights are equal files.
    size = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with atomic(path) as temporary:
        temporary.write_bytes(len(header).to_bytes(8, "little") + header + content[size:])


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """State dict, ``about`` and digest of a file written by ``save_weights``.

    Raises XbenchError naming the file if it is missing, unreadable, or if its tensors differ from its digest.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        about, expected = json.loads(metadata["about"]), metadata["sha256"]
    except FileNotFoundError as error:
        raise XbenchError(f"weights file {path} does not exist") from error
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise XbenchError(f"weights file {path} is damaged or not ours ({type(error).__name__}: {error})") from error
    if state_digest(state) != expected:
        raise XbenchError(f"weights file {path} is damaged: its tensors do not have the sha256 {expected[:12]}... it declares")
    return state, about, expected

"""Where learned inpainters come from: the weights that ship, and files that a user gives."""

from __future__ import annotations

import copy
import functools
import hashlib
import warnings
from pathlib import Path

import torch
from torch import nn

from xbench.errors import NotApplicable, XbenchError
from xbench.inpainter import GatedInpainter
from xbench.weights import load_weights

SHIPPED = Path(__file__).with_name("models")
DIGITS = 12
"""The fewest digits of a sha256 that pin a file."""


def shipped(label_space: str) -> bool:
    """True if an inpainter for images of this label space comes with xbench."""
    return _shipped_path(label_space).is_file()


def inpainter_for(label_space: str) -> GatedInpainter:
    """The inpainter that ships for images of a label space, on the CPU; the caller's own copy of what is read once.

    Raises NotApplicable naming the command that trains one if none ships.
    """
    if not shipped(label_space):
        raise NotApplicable(
            f"no inpainter ships for images of {label_space}: train one with xbench fit-inpainter --dataset DATASET --out FILE"
        )
    return load_inpainter(_shipped_path(label_space))


def load_inpainter(path: Path) -> GatedInpainter:
    """An inpainter that ``xbench fit-inpainter`` wrote, frozen, on the CPU; the caller's own copy of what is read once.

    Raises XbenchError naming the file if it is missing, damaged or of something else.
    """
    return copy.deepcopy(_loaded(path, _stamp(path)))


def load_torchscript(path: Path) -> nn.Module:
    """A TorchScript inpainter of the user's, in eval mode on the CPU, read once and then shared.

    It is called as ``module(images, holes)`` with float32 images (n, c, h, w) in [0, 1] that are 0 in the hole and masks
    (n, 1, h, w) that are 1 there, and returns images of that shape: the convention of LaMa (Suvorov et al. 2022,
    https://arxiv.org/abs/2109.07161). It must accept the images' size.

    Raises XbenchError naming the file if it is missing or no TorchScript.
    """
    return _script(path, _stamp(path))


def pinned(path: Path, sha: str) -> Path:
    """The path itself, if the sha256 of the file starts with ``sha``, at least 12 hexadecimal digits.

    Raises XbenchError that tells the checksum found and how to write it.
    """
    found = checksum(path)
    if len(sha) >= DIGITS and found.startswith(sha.lower()):
        return path
    wrong = f"not {sha}" if len(sha) >= DIGITS else f"{sha!r} is less than its first {DIGITS} digits"
    raise XbenchError(f"file {path} has the sha256 {found}, {wrong}; if it is the right file, write {path}:{found[:DIGITS]}")


def checksum(path: Path) -> str:
    """sha256 of a file, computed once; XbenchError if it cannot be read."""
    return _sha256(path, _stamp(path))


def _shipped_path(label_space: str) -> Path:
    return SHIPPED / f"inpaint-{label_space}.safetensors"


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is replaced, so that it is read anew."""
    try:
        about = path.stat()
    except OSError as error:
        raise XbenchError(f"file {path} cannot be read: {error.strerror}") from error
    return about.st_mtime_ns, about.st_size


@functools.lru_cache(maxsize=8)
def _loaded(path: Path, _stamp: tuple[int, int]) -> GatedInpainter:
    state, about, _ = load_weights(path)
    try:
        with torch.device("meta"):  # nothing is drawn: loading leaves the global random state alone
            network = GatedInpainter(about["channels"], about["width"])
        network.load_state_dict(state, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        why = str(error).splitlines()[-1].strip()
        raise XbenchError(f"file {path} is no inpainter written by xbench fit-inpainter: {why}") from error
    return network.eval().requires_grad_(False)


@functools.lru_cache(maxsize=8)
def _script(path: Path, _stamp: tuple[int, int]) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # Deprecated in favour of torch.export, in whose format no inpainter is distributed.
            warnings.simplefilter("ignore", FutureWarning)
            module: nn.Module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise XbenchError(f"file {path} is no TorchScript module: {str(error).splitlines()[0]}") from error
    return module.eval()


@functools.lru_cache(maxsize=8)
def _sha256(path: Path, _stamp: tuple[int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

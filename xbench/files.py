"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that replaces ``path`` when the block ends well, and vanishes when it does not.

    An OSError of the block that names no file names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # a write to a full disk does not say where
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def check_writable(folder: Path) -> None:
    """Makes ``folder`` if needed and tries to write into it, before long work whose result goes there; OSError if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


DECODED = ("pixels", "scans")
"""Folders of the user's cache that are made again from the image files when they are missing."""


def disk_use(folder: Path) -> tuple[int, int]:
    """The number of files below a folder, and the bytes that they take on the disk; sparse files take less than their size."""
    states = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return len(states), sum(getattr(state, "st_blocks", -(-state.st_size // 512)) * 512 for state in states)


def user_cache() -> Path:
    """The user's folder for fitted networks, decoded images and downloads: XBENCH_CACHE, or xbench in the system's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("XBENCH_CACHE") or Path(base) / "xbench")

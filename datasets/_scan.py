"""Image files as they lie on the disk: opened with errors that name them, and hashed once."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import io
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from xbench.errors import XbenchError
from xbench.files import atomic, user_cache
from xbench.registry import digest

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
THREADS = min(16, os.cpu_count() or 1)
"""Threads that read and decode files: Pillow and hashlib let others run meanwhile."""
SETTLED = 2.0
"""Seconds after which a file's time of change tells it from a later version, as in git's index."""


class Scan(NamedTuple):
    """What is known of a file without decoding it: sha256 of its bytes, width and height of its image."""

    sha256: str
    width: int
    height: int


def scan(owner: str, root: Path, paths: Iterable[Path]) -> dict[Path, Scan]:
    """The scans of files below ``root``, of which only those are read that are new or changed since the last time.

    Time of change and size tell, kept in the user's cache. Raises XbenchError naming a file that is missing or no image.
    """
    index = user_cache() / "scans" / f"{digest(str(root))[:32]}.json"
    known = _load(index)
    found: dict[Path, Scan] = {}
    states: dict[Path, tuple[int, int]] = {}
    for path in paths:
        try:
            state = path.stat()
        except OSError as error:
            raise XbenchError(f"{owner}: {path} cannot be read: {error.strerror}") from error
        states[path] = (state.st_mtime_ns, state.st_size)
        last = known.get(str(path))
        if last is not None and tuple(last[:2]) == states[path]:
            found[path] = Scan(str(last[2]), int(last[3]), int(last[4]))
    fresh = [path for path in states if path not in found]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found |= zip(fresh, pool.map(lambda path: _scanned(owner, path, *states[path]), fresh), strict=True)
    before = (time.time() - SETTLED) * 1e9
    if news := {str(path): [*states[path], *found[path]] for path in fresh if states[path][0] < before}:
        try:
            with atomic(index) as temporary:
                temporary.write_text(json.dumps(known | news, separators=(",", ":")))
        except OSError as error:
            raise cache_error(owner, index, error) from error
    return {path: found[path] for path in states}


def cache_error(owner: str, path: Path, error: OSError) -> XbenchError:
    """The error of a cache that cannot be written."""
    return XbenchError(
        f"{owner}: the cache {path} cannot be written ({error.strerror}): set XBENCH_CACHE to a folder with space, or make some"
    )


def opened(owner: str, path: Path) -> tuple[bytes, Image.Image]:
    """A file's bytes and its image, of which only the header is read; XbenchError naming a file that is none."""
    try:
        data = path.read_bytes()
        return data, Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise XbenchError(f"{owner}: {path} cannot be read as an image: {len(data)} bytes of no known format") from error
    except (OSError, Image.DecompressionBombError) as error:
        raise XbenchError(f"{owner}: {path} cannot be read: {error}") from error


@functools.cache
def _scanned(owner: str, path: Path, _time: int, _bytes: int) -> Scan:
    data, image = opened(owner, path)
    return Scan(hashlib.sha256(data).hexdigest(), *image.size)


def _load(index: Path) -> dict[str, list[Any]]:
    """What the last scan found; nothing, to be found again, if the file is missing or damaged."""
    try:
        known = json.loads(index.read_text())
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}

"""Claims: how several runs on one store, on one machine or many, keep from computing the same thing twice."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from xbench.store import StoreError

BEAT = 5.0
"""Seconds between two signs of life of whoever holds a claim."""
STALE = 60.0
"""Seconds without one after which a claim on another machine counts as left behind."""


@contextlib.contextmanager
def claim(folder: Path, name: str) -> Iterator[bool]:
    """Whether this process holds the claim ``name`` within the block: False if another one does.

    A claim is a file made exclusively, touched every few seconds by a thread and removed at the end of the block. That of a
    process that was killed is taken over: at once on the same machine, after a minute without a sign of life from another.
    Times are those of the file system, so that clocks that differ do no harm. Raises StoreError if no file can be written.
    """
    path = folder / f"{name}.claim"
    try:
        mine = _taken(path, folder)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}; what was stored before is kept") from error
    if not mine:
        yield False
        return
    stop = threading.Event()
    threading.Thread(target=_beat, args=(path, stop), daemon=True).start()
    try:
        yield True
    finally:
        stop.set()
        with contextlib.suppress(OSError):  # a disk that cannot be written any more has its own error
            path.unlink()


def _taken(path: Path, folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    if _made(path):
        return True
    if _left_behind(path, folder):
        # Should two processes do so at once, both may compute: the same numbers, twice.
        path.unlink(missing_ok=True)
    return _made(path)


def _made(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
    except OSError:
        path.unlink(missing_ok=True)  # on a full disk: nobody could tell whose it is
        raise
    return True


def _left_behind(path: Path, folder: Path) -> bool:
    try:
        age = _now(folder) - path.stat().st_mtime
        holder = json.loads(path.read_text())
        here, pid = holder["host"] == socket.gethostname(), int(holder["pid"])
    except FileNotFoundError:
        return True  # given back in this moment
    except (ValueError, KeyError, TypeError):
        return age > STALE  # not written yet, or never written to its end
    return age > STALE or (here and not _alive(pid))


def _now(folder: Path) -> float:
    """The time by the clock of the file system."""
    probe = folder / f".now-{secrets.token_hex(8)}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)

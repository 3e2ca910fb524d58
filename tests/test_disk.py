"""Nothing is lost on a disk that is full or cannot be written: real small file systems, where they can be mounted."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from board_results import result
from faults import complete, content, in_child, parts, suite_file

from xbench import XbenchError
from xbench.board import make_board, write
from xbench.run.claims import claim
from xbench.run.plan import make_plan
from xbench.run.runner import collect
from xbench.run.suite import load_suite
from xbench.store import Store, StoreError
from xbench.weights import save_weights

IMAGES = 20
FULL, READ_ONLY = os.strerror(errno.ENOSPC), os.strerror(errno.EROFS)


@contextlib.contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own on a folder; the test is skipped where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None:
        pytest.skip("there is no command mount")
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def exhaust(folder: Path, kind: str) -> None:
    """Leaves no byte, leaves no file, or makes the file system read-only."""
    if kind == "read-only":
        remount(folder, "ro")
        return
    with contextlib.suppress(OSError):
        for i in range(10_000):
            (folder / f"filler-{i}").write_bytes(b"x" * 4096 if kind == "no byte" else b"")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A suite and the store of an uninterrupted run of it."""
    folder = tmp_path_factory.mktemp("whole")
    suite = suite_file(folder, IMAGES)
    complete(suite, folder / "store")
    return suite, folder / "store"


@pytest.mark.parametrize(("kind", "why"), [("no byte", FULL), ("no file", FULL), ("read-only", READ_ONLY)])
def test_whatever_is_written_is_named_when_it_cannot_be(tmp_path: Path, kind: str, why: str) -> None:
    with disk(tmp_path / "disk", "size=512k,nr_inodes=60") as folder:
        store = Store(folder / "store")
        cell = store.cell("subset", "classifier", "method", "metric", "key")
        store.write_part(cell, 0, {"kept": 1})
        exhaust(folder, kind)
        before = sorted(folder.rglob("*"))

        def claimed() -> None:
            with claim(folder / "store" / "claims", "task"):
                pass

        board = make_board([result("gradient", [0.1, 0.2])], "Board")
        writers: dict[str, Callable[[], object]] = {
            "part-001.json": lambda: store.write_part(cell, 1, {"new": 1}),
            "status.json": lambda: store.write_status(cell, {"status": "failed"}),
            "form.json": lambda: store.batch_size("digest", "cpu", 8, None),
            ".safetensors": lambda: store.maps("key", "c/m", ["a"], [0], lambda missing: torch.zeros(1, 4, 4)),
            "task.claim": claimed,
            "board.csv": lambda: write(board, folder / "store" / "boards", "board"),
        }
        for name, writer in writers.items():
            with pytest.raises(XbenchError, match=f"{name}.* cannot be written: {why}"):
                writer()
        with pytest.raises(OSError, match=why) as error:
            save_weights(folder / "store" / "checkpoints" / "network.safetensors", {"weight": torch.zeros(9)}, {})
        assert "checkpoints" in str(error.value.filename)
        after = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        assert after == [path for path in before if path.is_file()], "nothing half-written is left"
        assert store.read_part(cell, 0) == {"kept": 1}


def test_a_run_that_fills_its_disk_goes_on_when_there_is_room(whole: tuple[Path, Path], tmp_path: Path) -> None:
    suite, store = whole
    stops: list[str] = []
    size = 16
    with disk(tmp_path / "disk", f"size={size}k") as folder:
        kept: dict[str, int] = {}
        while size < 2**20:
            try:
                complete(suite, folder / "store")
                break
            except XbenchError as error:
                stops.append(str(error))
            now = parts(folder / "store")
            assert {name: now.get(name) for name in kept} == kept, "what is stored is kept, and not computed again"
            kept = now
            assert not list((folder / "store").rglob(".*")), "no half-written file"
            assert not list((folder / "store").rglob("*.claim"))
            size *= 2
            remount(folder, f"size={size}k")
        assert len(stops) > 3
        assert all(f"cannot be written: {FULL}" in stop for stop in stops)
        assert content(folder / "store") == content(store)


def test_a_store_that_becomes_read_only_stops_the_run_and_can_be_read(
    whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, expected = whole
    with disk(tmp_path / "disk", "size=64m") as folder:
        store = folder / "store"
        write_part = Store.write_part

        def last(self: Store, cell: Path, index: int, part: dict[str, object]) -> None:
            write_part(self, cell, index, part)
            remount(folder, "ro")

        def stopped() -> None:
            with pytest.raises(StoreError, match=f"cannot be written: {READ_ONLY}; what was stored before is kept"):
                complete(suite, store)

        monkeypatch.setattr(Store, "write_part", last)
        assert os.waitpid(in_child(stopped), 0)[1] == 0
        monkeypatch.undo()
        kept = parts(store)
        assert len(kept) == 1
        with pytest.raises(StoreError, match=f"{store} cannot be written: {READ_ONLY}; choose another with --store"):
            complete(suite, store)
        results = collect(make_plan(load_suite(str(suite)), Store(store, create=False)))
        assert [result.status for result in results].count("ok") == 1, "it can be read"
        remount(folder, "rw")
        complete(suite, store)
        now = parts(store)
        assert {name: now.get(name) for name in kept} == kept
        assert content(store) == content(expected)

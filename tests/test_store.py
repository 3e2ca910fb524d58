from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from xbench.errors import XbenchError
from xbench.store import Store, StoreError
from xbench.weights import load_weights, save_weights


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, lines: list[str]) -> Store:
    return Store(tmp_path / "store", lines.append)


def test_a_part_comes_back_with_nan_and_infinity(store: Store) -> None:
    cell = store.cell("mnist", "mnist-cnn", 'sliding-patch(fill="blur")', "area", "k" * 64)
    content = {"scores": {"a": [1.5, math.nan, math.inf, 0.12345678901]}, "curves": {"c": [[1.0, -math.inf]]}, "ids": ["1"]}
    store.write_part(cell, 0, content)
    back = store.read_part(cell, 0)
    assert back is not None
    assert back["scores"]["a"][0] == 1.5
    assert math.isnan(back["scores"]["a"][1])
    assert back["scores"]["a"][2:] == [math.inf, 0.1234568]
    assert back["curves"] == {"c": [[1.0, -math.inf]]}
    assert store.read_part(cell, 1) is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "list"])
def test_a_damaged_part_is_reported_and_counts_as_missing(store: Store, lines: list[str], damage: str) -> None:
    cell = store.cell("mnist", "mnist-cnn", "rise", "area", "k" * 64)
    store.write_part(cell, 0, {"scores": {"a": [0.25]}, "curves": {}})
    path = cell / "part-000.json"
    text = path.read_text()
    path.write_text({"truncate": text[:-9], "flip": text.replace("0.25", "0.35"), "empty": "", "list": "[]"}[damage])
    assert store.read_part(cell, 0) is None
    assert len(lines) == 1
    assert str(path) in lines[0]


def test_writing_a_part_forgets_the_failure(store: Store) -> None:
    cell = store.cell("mnist", "mnist-cnn", "rise", "area", "k" * 64)
    store.write_status(cell, {"status": "failed", "reason": "no luck"})
    assert store.read_status(cell) == {"status": "failed", "reason": "no luck"}
    store.write_part(cell, 0, {"scores": {}, "curves": {}})
    assert store.read_status(cell) is None


def test_maps_are_computed_once_and_only_where_missing(store: Store, lines: list[str]) -> None:
    asked: list[list[int]] = []

    def compute(positions: list[int]) -> torch.Tensor:
        asked.append(positions)
        return torch.tensor([float(p) for p in positions]).view(-1, 1, 1).expand(-1, 2, 2).clone()

    first = store.maps("k" * 64, "cnn/rise", ["a", "b"], [0, 0], compute)
    again = Store(store.root, lines.append).maps("k" * 64, "cnn/rise", ["b", "a", "c"], [0, 0, 0], compute)
    assert asked == [[0, 1], [2]]
    assert torch.equal(again[:2], first.flip(0))
    store.maps("j" * 64, "cnn/rise", ["a"], [0], compute)
    assert asked[-1] == [0], "another key has maps of its own"
    assert lines == []


@pytest.mark.parametrize("damage", [b"", b"\0" * 50, None])
def test_a_damaged_map_file_is_computed_again(store: Store, lines: list[str], damage: bytes | None) -> None:
    def compute(positions: list[int]) -> torch.Tensor:
        return torch.full((len(positions), 2, 2), 7.0)

    store.maps("k" * 64, "cnn/rise", ["a", "b"], [0, 0], compute)
    (path,) = (store.root / "maps").rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content) if damage is None else damage)
    fresh = Store(store.root, lines.append)
    assert torch.equal(fresh.maps("k" * 64, "cnn/rise", ["a", "b"], [0, 0], compute), torch.full((2, 2, 2), 7.0))
    assert len(lines) == 1
    assert str(path) in lines[0]
    assert len(list((store.root / "maps").rglob("*.safetensors"))) == 1
    Store(store.root, lines.append).maps("k" * 64, "cnn/rise", ["a"], [0], lambda _: pytest.fail("computed twice"))


def test_the_batch_size_is_chosen_once(store: Store) -> None:
    assert store.batch_size("d" * 64, "cpu", 256, None) == 256
    assert store.batch_size("d" * 64, "cpu", 128, None) == 256
    assert store.batch_size("d" * 64, "cuda", 4096, 64) == 64
    with pytest.raises(XbenchError, match="begun with batch size 256 on cpu; 7 was asked for"):
        store.batch_size("d" * 64, "cpu", 256, 7)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/store cannot be written"):
        Store(tmp_path / "file" / "store")
    with pytest.raises(XbenchError, match="does not exist"):
        Store(tmp_path / "absent", create=False)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(2)}, {"x": 1})
    with pytest.raises(AttributeError):
        save_weights(path, {"a": None}, {})  # type: ignore[dict-item]
    state, about, _ = load_weights(path)
    assert torch.equal(state["a"], torch.ones(2))
    assert about == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    cell = store.cell("mnist", "mnist-cnn", "rise", "area", "k" * 64)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StoreError, match="No space left on device; what was stored before is kept"):
        store.write_part(cell, 0, {"scores": {}, "curves": {}})
    assert list(cell.iterdir()) == []

"""Stores into one: results, maps, answers and networks of runs that did not share a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from xbench.errors import XbenchError
from xbench.files import atomic
from xbench.registry import digest
from xbench.store import Store
from xbench.weights import load_weights

FOLDERS = ("results", "maps", "answers", "checkpoints")
RECORD = ("record", "sha256", "seconds", "passes")
"""What two machines may state differently of the same scores."""


def merge(target: Store, sources: Sequence[Path], report: Callable[[str], None]) -> tuple[int, int]:
    """Copies what the target store lacks from the sources; the number of files copied, and of those that were there.

    A source's file that is damaged is left out, and reported. The one that is in the target stays; XbenchError, before anything
    is copied, if another one has other scores, or if a source is no store.
    """
    for source in sources:
        if not any((source / folder).is_dir() for folder in FOLDERS):
            raise XbenchError(f"{source} is no store: it has none of the folders {', '.join(FOLDERS)}")
    found = [(source, path) for source in sources for path in _files(source)]
    known: dict[Path, Path] = {}
    copies: list[tuple[Path, Path]] = []
    for source, path in found:
        place = path.relative_to(source)
        if not _intact(path):
            report(f"{path} is damaged and left out")
            continue
        here = known.get(place) or (target.root / place if (target.root / place).exists() else None)
        if here is not None and _intact(here):
            if path.name.startswith("part-") and _scores(here) != _scores(path):
                raise XbenchError(f"{here} and {path} have the same key and different scores: nothing was copied")
        else:
            known[place] = path
            copies.append((path, target.root / place))
    for path, place in copies:
        with atomic(place) as temporary:
            shutil.copyfile(path, temporary)
        if place.name.startswith("part-"):  # as if it had been computed here
            (place.parent / "status.json").unlink(missing_ok=True)
    return len(copies), len(found) - len(copies)


def _files(store: Path) -> Iterator[Path]:
    """Results, maps, answers and networks."""
    for folder in FOLDERS:
        for path in sorted((store / folder).rglob("[!.]*")):
            if path.suffix in (".json", ".safetensors") and path.is_file():
                yield path


def _intact(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            return bool(digest({k: v for k, v in content.items() if k != "sha256"}) == content["sha256"])
        load_weights(path)
    except (OSError, ValueError, KeyError, AttributeError, XbenchError):
        return False
    return True


def _scores(path: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in RECORD}

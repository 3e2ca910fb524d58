"""The store: a folder that keeps results and maps in small files, each written whole or not at all.

    results/<subset>/<classifier>/<method>/<metric>-<key>/part-000.json   scores of a fixed chunk of images
                                                          status.json     why a cell failed or does not apply
    maps/<classifier>/<method>-<key>/<ids>.safetensors                    maps, read by every metric
    answers/<classifier>/<method>-<key>/<ids>/<tag>-<names>.safetensors   the classifier's answers along the maps
    checkpoints/                                                          networks fitted during a run
    form.json                                                             batch size and form, once per classifier and device

Merging two stores is copying files. A killed run leaves complete files only and goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from xbench.errors import XbenchError
from xbench.files import atomic, check_writable
from xbench.files import user_cache as user_cache
from xbench.registry import digest
from xbench.result import decode, encode
from xbench.types import Maps
from xbench.weights import load_weights, save_weights

PART_IMAGES = 50
"""Images per part: the most work that a kill can cost a cell."""


class StoreError(XbenchError):
    """The store cannot be written; a run stops, what it has stored stays."""


class Store:
    """Results and maps below one folder.

    Args:
        root: the folder, made if it does not exist.
        report: gets one line for everything unusual, such as a damaged file that is computed again.
        create: False for a store that is only read.

    Raises XbenchError if the folder cannot be made or (with ``create=False``) does not exist.
    """

    def __init__(self, root: Path, report: Callable[[str], None] = print, *, create: bool = True) -> None:
        self.root = root
        self.report = report
        self.read_only = not create
        self._index: dict[Path, dict[str, Path]] = {}
        if create:
            try:
                check_writable(root)
            except OSError as error:
                raise StoreError(f"store {root} cannot be written: {error.strerror}; choose another with --store") from error
        elif not root.is_dir():
            raise XbenchError(f"store {root} does not exist; xbench run --store {root} makes it")

    # -- results ---------------------------------------------------------------------------------------------------

    def cell(self, subset: str, classifier: str, method: str, metric: str, key: str) -> Path:
        """The folder of a cell, addressed by its specs (for people) and its key (for the program)."""
        return self.root / "results" / slug(subset) / slug(classifier) / slug(method) / f"{slug(metric)}-{key[:16]}"

    def cells(self, subset: str, classifier: str, method: str, metric: str) -> list[Path]:
        """The folders of all stored cells of these specs, whatever their keys, by name."""
        folder = self.cell(subset, classifier, method, metric, "")
        return sorted(folder.parent.glob(folder.name + "*"))

    def read_part(self, cell: Path, index: int) -> dict[str, Any] | None:
        """A stored part, or None if it is missing or damaged (which is reported)."""
        return self._read(cell / f"part-{index:03d}.json")

    def write_part(self, cell: Path, index: int, content: dict[str, Any]) -> None:
        """Stores a part and forgets a failure of the cell."""
        self._write(cell / f"part-{index:03d}.json", content)
        (cell / "status.json").unlink(missing_ok=True)

    def read_status(self, cell: Path) -> dict[str, Any] | None:
        """Why a cell failed or does not apply: ``status``, ``reason``, ``traceback``; None if nothing is known."""
        return self._read(cell / "status.json")

    def status_since(self, cell: Path, seconds: float) -> bool:
        """Whether a status was written at that time of the system's clock or later."""
        try:
            return (cell / "status.json").stat().st_mtime >= seconds
        except FileNotFoundError:
            return False

    def write_status(self, cell: Path, content: dict[str, Any]) -> None:
        """Stores why a cell failed or does not apply."""
        self._write(cell / "status.json", content)

    # -- maps ------------------------------------------------------------------------------------------------------

    def maps(
        self, key: str, label: str, ids: Sequence[str], groups: Sequence[int], compute: Callable[[list[int]], Maps]
    ) -> Maps:
        """The maps (b, h, w) of ``ids`` on the CPU; ``compute`` makes those of the positions that are not stored.

        It is called for, and a file is written for, the images of one number in ``groups`` at a time.
        """
        classifier, _, method = label.partition("/")
        folder = self.root / "maps" / slug(classifier) / f"{slug(method)}-{key[:16]}"
        found = self._stored_maps(folder, ids)
        missing: dict[int, list[int]] = {}
        for i, image in enumerate(ids):
            if image not in found:
                missing.setdefault(groups[i], []).append(i)
        for positions in missing.values():
            fresh = compute(positions).cpu()
            names = [ids[i] for i in positions]
            path = folder / f"{digest(names)[:16]}.safetensors"
            if not self.read_only:
                self._save(path, {"maps": fresh}, {"ids": names})
                self._index[folder].update(dict.fromkeys(names, path))
            found.update(zip(names, fresh, strict=True))
        return torch.stack([found[image] for image in ids])

    def _stored_maps(self, folder: Path, ids: Sequence[str]) -> dict[str, Tensor]:
        index = self._index.setdefault(folder, {})
        if any(image not in index for image in ids) and folder.is_dir():
            for path in sorted(folder.glob("[!.]*.safetensors")):
                if path not in index.values():
                    index.update(dict.fromkeys(self._ids_of(path), path))
        found: dict[str, Tensor] = {}
        for path in sorted({index[image] for image in ids if image in index}):
            try:
                state, about, _ = load_weights(path)
                if digest(about["ids"])[:16] != path.stem:
                    raise XbenchError(f"{path} is damaged: its ids are not those of its name")
                found.update(zip(about["ids"], state["maps"], strict=True))
            except XbenchError as error:
                self.report(f"{error}; computed again")
                self._discard(path)
                for image in [i for i, p in index.items() if p == path]:
                    del index[image]
        return found

    def _ids_of(self, path: Path) -> list[str]:
        """The ids in a map file's header; none, with a report, if the header is damaged."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                ids: list[str] = json.loads((file.metadata() or {})["about"])["ids"]
                return ids
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            self.report(f"{path} is damaged ({type(error).__name__}); computed again")
            self._discard(path)
            return []

    # -- answers ---------------------------------------------------------------------------------------------------

    def answers(
        self,
        key: str,
        label: str,
        ids: Sequence[str],
        tag: str,
        names: Sequence[str],
        compute: Callable[[list[str]], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Per name a tensor (b, ...) over ``ids`` on the CPU; ``compute`` makes those of the names that are not stored.

        ``tag`` tells apart what has the same key, ids and names: a digest of all else that it depends on. Files are added,
        never changed, so that runs on one store do not lose each other's.
        """
        folder = self._answer_folder(key, label, ids)
        found: dict[str, Tensor] = {}
        for path in sorted(folder.glob(f"{tag}-*.safetensors")):
            if not self._names_in(path).intersection(names):
                continue
            try:
                found |= load_weights(path)[0]
            except XbenchError as error:
                self.report(f"{error}; computed again")
                self._discard(path)
        missing = [name for name in names if name not in found]
        if missing:
            fresh = {name: values.cpu() for name, values in compute(missing).items()}
            if not self.read_only:
                self._save(folder / f"{tag}-{digest(missing)[:16]}.safetensors", fresh, {"ids": list(ids)})
            found |= fresh
        return {name: found[name] for name in names}

    def answered(self, key: str, label: str, ids: Sequence[str]) -> set[str]:
        """The names that there are answers of for ``ids``, under any tag, by the files' headers."""
        paths = sorted(self._answer_folder(key, label, ids).glob("[!.]*.safetensors"))
        return set().union(*map(self._names_in, paths))

    def _answer_folder(self, key: str, label: str, ids: Sequence[str]) -> Path:
        classifier, _, method = label.partition("/")
        return self.root / "answers" / slug(classifier) / f"{slug(method)}-{key[:16]}" / digest(list(ids))[:16]

    def _names_in(self, path: Path) -> set[str]:
        """The names in a file's header; none, with a report, if the header is damaged."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                return set(file.keys())
        except (OSError, safetensors.SafetensorError) as error:
            self.report(f"{path} is damaged ({type(error).__name__}); computed again")
            self._discard(path)
            return set()

    def _discard(self, path: Path) -> None:
        """Removes a damaged file where the store is not only read; what replaces it may be called otherwise."""
        if not self.read_only:
            with contextlib.suppress(OSError):
                path.unlink()

    # -- the numeric form ------------------------------------------------------------------------------------------

    def batch_size(self, classifier_digest: str, device: str, default: int, requested: int | None) -> int:
        """The batch size of this store for a classifier and device: chosen at the first run, kept ever after.

        A resumed run then equals an uninterrupted one. Raises XbenchError if another size is requested later.
        """
        kept = self.form(classifier_digest, device).get("batch_size")
        if kept is None:
            kept = requested or default
            self.keep_form(classifier_digest, device, {"batch_size": kept})
        if requested not in (None, kept):
            raise XbenchError(
                f"store {self.root} was begun with batch size {kept} on {device}; {requested} was asked for: "
                "leave --batch-size out, or choose another --store"
            )
        return int(kept)

    def form(self, classifier_digest: str, device: str) -> dict[str, Any]:
        """What was chosen for a classifier and device."""
        forms = self._read(self.root / "form.json") or {}
        return dict(forms.get(f"{classifier_digest[:16]}@{device}", {}))

    def keep_form(self, classifier_digest: str, device: str, chosen: dict[str, Any]) -> None:
        """Adds to what was chosen for a classifier and device; nothing where the store is only read."""
        if not self.read_only:
            forms = self._read(self.root / "form.json") or {}
            forms.setdefault(f"{classifier_digest[:16]}@{device}", {}).update(chosen)
            self._write(self.root / "form.json", forms)

    # -- files -----------------------------------------------------------------------------------------------------

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads(path.read_text())
            expected = content.pop("sha256")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.report(f"{path} is damaged ({type(error).__name__}); computed again")
            return None
        if digest(content) != expected:
            self.report(f"{path} is damaged (its content does not have the sha256 it declares); computed again")
            return None
        decoded: dict[str, Any] = decode_scores(content)
        return decoded

    def _save(self, path: Path, state: dict[str, Tensor], about: dict[str, Any]) -> None:
        with _writing(path):
            save_weights(path, state, about)

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        content = encode(content)
        with _writing(path), atomic(path) as temporary:
            temporary.write_text(json.dumps({**content, "sha256": digest(content)}, separators=(",", ":")) + "\n")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns a failure to write into a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}; what was stored before is kept") from error


def decode_scores(content: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a part's scores and curves, with NaN and infinities restored."""
    return {key: decode(value) if key in ("scores", "curves") else value for key, value in content.items()}


def slug(text: str) -> str:
    """A spec as a name that every file system takes; which spec it is stands in the file, not in the name."""
    return re.sub(r"[^A-Za-z0-9+.=-]+", "_", text).strip("_")[:80]

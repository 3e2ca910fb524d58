"""`xbench new`: the one file of a new entry, which passes `xbench check` as it is written."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import xbench
from xbench.cli.telling import note, say
from xbench.cli.templates import CLASSIFIER, DATASET, METHOD, METRIC
from xbench.errors import XbenchError
from xbench.files import atomic

if TYPE_CHECKING:
    from xbench.registry import Registry

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class Kind(StrEnum):
    """What can be written."""

    METHOD = "method"
    METRIC = "metric"
    DATASET = "dataset"
    CLASSIFIER = "classifier"


TEMPLATES = {Kind.METHOD: METHOD, Kind.METRIC: METRIC, Kind.DATASET: DATASET, Kind.CLASSIFIER: CLASSIFIER}
FOLDERS = {Kind.METHOD: "methods", Kind.METRIC: "metrics", Kind.DATASET: "datasets", Kind.CLASSIFIER: "models"}


def new(
    kind: Annotated[Kind, typer.Argument(help="What to write.")],
    name: Annotated[str, typer.Argument(help="Its name in specs: lower-case letters, digits and single '-', as in my-method.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="Folder of your own entries, as on XBENCH_PATH; the file goes to methods/ and so on in it."
        ),
    ] = None,
) -> None:
    """Writes the file of a new method, metric, dataset or classifier: a small working example to be changed.

    Within the checkout that xbench runs from it goes where the others are, elsewhere to the first folder of XBENCH_PATH.
    """
    if not NAME.fullmatch(name):
        raise XbenchError(f"name {name!r}: must be lower-case letters, digits and single '-', a letter first, as my-{kind}")
    _unused(kind, name)
    stem = name.replace("-", "_")
    root = folder or _root(kind)
    path = root / FOLDERS[kind] / f"{stem}.py"
    if path.exists():
        raise XbenchError(f"{path} exists: choose another name, or delete it")
    text = (
        TEMPLATES[kind]
        .replace("entry-name", name)
        .replace("EntryClass", "".join(part.capitalize() for part in name.split("-")))
    )
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    roots = [Path(place).resolve() for place in xbench.__path__]
    there = root.resolve() in roots
    note(f"written: {path}" + ("" if there else f"; xbench finds it with XBENCH_PATH={root.resolve()}"))
    say(f"try: {'' if there else f'XBENCH_PATH={root.resolve()} '}xbench check {name}")


def _unused(kind: Kind, name: str) -> None:
    """XbenchError if an entry of the kind has the name."""
    from xbench import CLASSIFIERS, DATASETS, METHODS, METRICS

    registries: dict[Kind, Registry[Any]] = {
        Kind.METHOD: METHODS,
        Kind.METRIC: METRICS,
        Kind.DATASET: DATASETS,
        Kind.CLASSIFIER: CLASSIFIERS,
    }
    taken = registries[kind].names()
    if name in taken:
        raise XbenchError(f"there is a {kind} {name!r} already: choose another name; taken: {', '.join(taken)}")


def _root(kind: Kind) -> Path:
    """Where a new file goes if nobody says so; XbenchError if there is no such folder."""
    package = Path(xbench.__file__).resolve().parent
    checkout = package.parent
    if (checkout / "pyproject.toml").exists() and Path.cwd().resolve().is_relative_to(checkout):
        return checkout if kind in (Kind.METHOD, Kind.DATASET) else package
    own = [part for part in os.environ.get("XBENCH_PATH", "").split(os.pathsep) if part]
    if own:
        return Path(own[0]).expanduser()
    raise XbenchError(f"where shall the {kind} go? Name a folder of yours: --folder DIR, or set XBENCH_PATH=DIR")

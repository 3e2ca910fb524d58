"""`xbench doctor`: whether everything that xbench needs is here, and what to do where it is not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from xbench.cli.telling import failed, results, say, warn

PACKAGES = ("torch", "torchvision", "captum", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "typer", "rich")
EXTRAS = {"photos": "foolbox", "ray": "ray", "timm": "timm", "parquet": "pyarrow"}
"""A package of each extra."""
SMALL = 5 * 2**30
"""Bytes of free disk below which a warning is due: the maps of 1 000 images at 224 px and 30 methods take 6 GB."""


@dataclasses.dataclass
class Findings:
    """What was found: facts by section, what is broken, and what only limits what can be run; each with advice."""

    facts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    broken: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def attempt(self, section: str, look: Callable[[Findings], dict[str, Any]]) -> None:
        """Adds a section; whatever goes wrong in it is broken, and the others are looked at all the same."""
        try:
            self.facts[section] = look(self)
        except Exception as error:
            self.broken.append(f"{section}: {str(error) or type(error).__name__}")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Says what is installed, where things are kept and how fast classifiers are here; exit status 1 if something is broken."""
    found = Findings()
    found.attempt("versions", _versions)
    found.attempt("devices", _devices)
    found.attempt("folders", _folders)
    found.attempt("entries", _entries)
    found.attempt("images per second, masked and passed forward, and with backward", _speed)
    if as_json:
        typer.echo(json.dumps({**found.facts, "broken": found.broken, "notes": found.notes}, indent=2))
    else:
        for section, facts in found.facts.items():
            results.print(section, style="bold", highlight=False)
            for name, value in facts.items():
                say(f"  {name}: {value}")
        for line in found.notes:
            warn(line)
        for line in found.broken:
            failed(f"broken: {line}")
        say("something is broken" if found.broken else "everything works")
    if found.broken:
        raise typer.Exit(1)


def _versions(found: Findings) -> dict[str, Any]:
    import importlib.metadata
    import platform

    import xbench

    facts = {"xbench": f"{xbench.__version__} in {Path(xbench.__file__).parent}", "python": platform.python_version()}
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found.broken.append(f'{package} is not installed: pip install "xbench" again')
    for extra, package in EXTRAS.items():
        try:
            facts[f"extra {extra}"] = f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            facts[f"extra {extra}"] = f'not installed: pip install "xbench[{extra}]"'
    return facts


def _devices(found: Findings) -> dict[str, Any]:
    import os

    import torch

    from xbench.run.machine import hardware

    about = hardware("cpu")
    facts = {"cpu": f"{about['name']}, {os.cpu_count()} processors, {about['threads']} threads"}
    for i in range(torch.cuda.device_count()):
        facts[f"cuda:{i}"] = f"{torch.cuda.get_device_name(i)}, {torch.cuda.mem_get_info(i)[1] / 2**30:.0f} GiB"
    if torch.version.cuda and not torch.cuda.is_available():
        found.notes.append(f"torch is built for CUDA {torch.version.cuda}, but finds no GPU: --device cuda cannot be used")
    return facts


def _folders(found: Findings) -> dict[str, Any]:
    import os
    import shutil

    from xbench.files import check_writable, user_cache

    cache = user_cache()
    advice = {cache: "set XBENCH_CACHE to a folder of yours", Path.cwd(): "change to another, or give --store"}
    for folder, what in advice.items():
        try:
            check_writable(folder)
        except OSError as error:
            found.broken.append(f"{folder} cannot be written ({error.strerror}): {what}")
    for folder in map(Path, filter(None, os.environ.get("XBENCH_PATH", "").split(os.pathsep))):
        if not folder.expanduser().is_dir():
            found.broken.append(f"XBENCH_PATH: {folder} is not a folder: make it, or take it out of XBENCH_PATH")
    facts: dict[str, Any] = {"cache": str(cache), "stores go to": str(Path.cwd())}
    if cache.is_dir():
        size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        free = shutil.disk_usage(Path.cwd()).free
        facts |= {"size of the cache": f"{size / 2**20:.0f} MiB", "free where stores go": f"{free / 2**30:.1f} GiB"}
        if free < SMALL:
            found.notes.append(f"only {free / 2**30:.1f} GiB are free where stores go: maps of many images need more")
    facts["XBENCH_PATH"] = os.environ.get("XBENCH_PATH", "not set")
    return facts


def _entries(_: Findings) -> dict[str, Any]:
    from xbench import CLASSIFIERS, DATASETS, METHODS, METRICS

    return {registry.folder: len(registry.names()) for registry in (METHODS, METRICS, DATASETS, CLASSIFIERS)}


def _speed(found: Findings) -> dict[str, Any]:
    """Of the classifier that ships, and of one of 224 px where its extra is installed."""
    import torch

    from xbench.classifier import CLASSIFIERS
    from xbench.errors import XbenchError
    from xbench.run.machine import measured_speed

    facts: dict[str, Any] = {}
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for name in ("mnist-cnn", "efficientnet-lite"):
        try:
            classifier = CLASSIFIERS.make(name).load()
        except XbenchError as error:
            if name == "mnist-cnn":
                raise
            found.notes.append(f"{name} (224 px) was not measured: {error}")
            continue
        for device in devices:
            speed = measured_speed(classifier.to(device))
            facts[f"{name} on {device}"] = f"{1 / speed.forward:,.0f} and {1 / speed.gradient:,.0f}"
    return facts

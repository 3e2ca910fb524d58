"""What the shell completes beside commands and options: names of entries and suites, found without importing any of them."""

from __future__ import annotations

import re
from pathlib import Path

import xbench

ROOTS = {"METHODS": "methods", "METRICS": "metrics", "DATASETS": "datasets", "CLASSIFIERS": "models"}


def registered(registry: str) -> list[str]:
    """The names that files of a registry's folders register: read, not imported, which would take seconds a key stroke."""
    pattern = re.compile(rf'^@{registry}\.register\("([^"]+)"\)', re.MULTILINE)
    files = [file for root in xbench.__path__ for file in sorted(Path(root, ROOTS[registry]).glob("[!_]*.py"))]
    return sorted({name for file in files for name in pattern.findall(file.read_text(encoding="utf-8", errors="replace"))})


def methods(incomplete: str) -> list[str]:
    """Names of methods that begin so."""
    return [name for name in registered("METHODS") if name.startswith(incomplete)]


def datasets(incomplete: str) -> list[str]:
    """Names of datasets that begin so."""
    return [name for name in registered("DATASETS") if name.startswith(incomplete)]


def classifiers(incomplete: str) -> list[str]:
    """Names of classifiers that begin so."""
    return [name for name in registered("CLASSIFIERS") if name.startswith(incomplete)]


def entries(incomplete: str) -> list[str]:
    """Names of anything that is registered that begin so."""
    return sorted(name for registry in ROOTS for name in registered(registry) if name.startswith(incomplete))


def suites(incomplete: str) -> list[str]:
    """Names of suites that begin so."""
    shipped = sorted(path.stem for path in (Path(xbench.__file__).parent / "suites").glob("*.toml"))
    return [name for name in shipped if name.startswith(incomplete)]

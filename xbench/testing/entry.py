"""What the conformance checks of all four kinds of entry share."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

from xbench.errors import XbenchError
from xbench.registry import Entry, Registry, digest

E = TypeVar("E", bound=Entry)

SOURCE = re.compile(r"https?://|\b(19|20)\d\d\b|[Oo]wn decision|\(control\)")


def entry(registry: Registry[E], spec: str) -> E:
    """The entry to check: a bare name with its ``quick`` parameters, a spec with parameters as it stands."""
    if "(" in spec:
        return registry.make(spec)
    cls = registry.get(spec)
    missing = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in cls.quick]  # type: ignore[arg-type]
    if missing:
        raise XbenchError(
            f"{registry.kind} {spec!r} has no default for {', '.join(missing)}: check it as {spec}({missing[0]}=...)"
        )
    return registry.quick(spec)


def conclude(findings: Iterable[str]) -> None:
    """Raises AssertionError with all findings, one a line, if there are any."""
    found = list(dict.fromkeys(findings))
    if found:
        raise AssertionError("\n".join(found))


def declaration(registry: Registry[E], checked: E) -> Iterator[str]:
    """Findings on how an entry is declared: its docstring and its spec."""
    cls = type(checked)
    text = cls.__dict__.get("__doc__") or ""
    if not text or text.startswith(f"{cls.__name__}("):  # what @dataclass writes where there is none
        yield "has no docstring"
    elif registry.kind in ("method", "metric") and not SOURCE.search(text):
        yield "the docstring names no source: give a year or URL, or say that it is an own decision"
    if registry.make(checked.spec) != checked:
        yield f"the spec {checked.spec!r} makes {registry.make(checked.spec)!r}"
    hash(checked)  # this and the next raise where a parameter is no plain value
    digest(checked.identity)

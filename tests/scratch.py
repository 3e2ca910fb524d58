"""Entries that live for one test, for the tests of the conformance checks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from xbench import CLASSIFIERS, DATASETS, METHODS, METRICS
from xbench.registry import Registry


@contextlib.contextmanager
def scratch_registries() -> Iterator[None]:
    """Entries that are registered within the block are forgotten after it."""
    with pytest.MonkeyPatch.context() as patch:
        for registry in (METHODS, METRICS, DATASETS, CLASSIFIERS):
            patch.setattr(registry, "_classes", {name: registry.get(name) for name in registry.names()})
        yield


def register(registry: Registry[Any], base: type, fields: list[Any] | None = None, **namespace: Any) -> str:
    """Registers a frozen dataclass with these attributes under the name "made"."""
    registry.register("made")(dataclasses.make_dataclass("Made", fields or [], bases=(base,), namespace=namespace, frozen=True))
    return "made"


def findings(run: Callable[[str], None], spec: str) -> str:
    """What a check finds wrong; fails if it finds nothing."""
    with pytest.raises(AssertionError) as caught:
        run(spec)
    return str(caught.value)

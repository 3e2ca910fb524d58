"""The conformance checks that every entry must pass; public, so that other packages run them on their own entries.

In a test of your own package, or on the command line as ``xbench check NAME``::

    from xbench.testing import check_method

    def test_my_method():
        check_method("my-method")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xbench.classifier import CLASSIFIERS
from xbench.errors import unknown
from xbench.method import METHODS
from xbench.metric import METRICS
from xbench.registry import Registry
from xbench.subset import DATASETS
from xbench.testing.classifier import check_classifier
from xbench.testing.dataset import check_dataset
from xbench.testing.method import check_method
from xbench.testing.metric import check_metric
from xbench.testing.tiny import tiny_batch, tiny_classifier, tiny_images, tiny_transformer

__all__ = [
    "check",
    "check_classifier",
    "check_dataset",
    "check_method",
    "check_metric",
    "tiny_batch",
    "tiny_classifier",
    "tiny_images",
    "tiny_transformer",
]

_CHECKS: tuple[tuple[Registry[Any], Callable[[str], None]], ...] = (
    (METHODS, check_method),
    (METRICS, check_metric),
    (DATASETS, check_dataset),
    (CLASSIFIERS, check_classifier),
)


def check(spec: str) -> str:
    """Checks the method, metric, dataset or classifier that a spec describes and returns which of these it is.

    A name that several kinds share is checked as each of them. Raises AssertionError listing every rule that is broken,
    XbenchError if no registry has the name.
    """
    name = spec.partition("(")[0].strip()
    found = [(registry.kind, run) for registry, run in _CHECKS if name in registry.names()]
    if not found:
        raise unknown("entry", name, [name for registry, _ in _CHECKS for name in registry.names()])
    for _, run in found:
        run(spec)
    return " and ".join(kind for kind, _ in found)

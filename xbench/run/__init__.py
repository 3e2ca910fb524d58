"""From a suite to cells, and from cells to stored results. Called, as ``xbench.run("smoke")``: see `xbench.api`."""

from __future__ import annotations

import sys
import types
from typing import Any

import xbench


class _Package(types.ModuleType):
    """Python binds ``xbench.run`` to this package as soon as one of its modules is imported, so that the package is called."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return xbench.run_suite(*args, **options)


sys.modules[__name__].__class__ = _Package

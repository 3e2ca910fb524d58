"""xbench: the benchmark of visual feature attribution. Which explanation of an image classifier can be trusted?"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The top-level folders methods/ and datasets/ are namespace portions of this package: from a wheel they lie inside it; from
# a checkout they lie beside it; a user's own lie in the folders of XBENCH_PATH. The pyproject guard keeps site-packages
# (the parent of an installed package) off the path.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").exists():
    __path__.append(str(_root))
__path__.extend(str(Path(p).expanduser().resolve()) for p in os.environ.get("XBENCH_PATH", "").split(os.pathsep) if p)

# Public names are imported when first used, so that the command line does not load torch to print its help.
_PUBLIC = {
    "CLASSIFIERS": "classifier",
    "Classifier": "classifier",
    "ClassifierEntry": "classifier",
    "Passes": "classifier",
    "DATASETS": "subset",
    "Batch": "subset",
    "Dataset": "subset",
    "Subset": "subset",
    "METHODS": "method",
    "Method": "method",
    "TrainedMethod": "method",
    "ImageRandom": "rng",
    "from_callable": "adapters",
    "from_captum": "adapters",
    "from_grad_cam": "adapters",
    "from_module": "models.module",
    "Run": "api",
    "run_suite": "api",
    "run": "run",  # the package, which can be called
    "METRICS": "metric",
    "Column": "metric",
    "Metric": "metric",
    "Scored": "metric",
    "Explainer": "explainer",
    "Result": "result",
    "XbenchError": "errors",
    "NotApplicable": "errors",
    "Images": "types",
    "Labels": "types",
    "Maps": "types",
}
__all__ = [
    "CLASSIFIERS",
    "DATASETS",
    "METHODS",
    "METRICS",
    "Batch",
    "Classifier",
    "ClassifierEntry",
    "Column",
    "Dataset",
    "Explainer",
    "ImageRandom",
    "Images",
    "Labels",
    "Maps",
    "Method",
    "Metric",
    "NotApplicable",
    "Passes",
    "Result",
    "Run",
    "Scored",
    "Subset",
    "TrainedMethod",
    "XbenchError",
    "from_callable",
    "from_captum",
    "from_grad_cam",
    "from_module",
    "run",
]

if TYPE_CHECKING:
    from xbench.adapters import from_callable, from_captum, from_grad_cam
    from xbench.api import Run
    from xbench.api import run_suite as run
    from xbench.classifier import CLASSIFIERS, Classifier, ClassifierEntry, Passes
    from xbench.errors import NotApplicable, XbenchError
    from xbench.explainer import Explainer
    from xbench.method import METHODS, Method, TrainedMethod
    from xbench.metric import METRICS, Column, Metric, Scored
    from xbench.models.module import from_module
    from xbench.result import Result
    from xbench.rng import ImageRandom
    from xbench.subset import DATASETS, Batch, Dataset, Subset
    from xbench.types import Images, Labels, Maps


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'xbench' has no attribute {name!r}")
    module = importlib.import_module(f"xbench.{_PUBLIC[name]}")
    return module if name == _PUBLIC[name] else getattr(module, name)

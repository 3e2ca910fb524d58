"""Writes entries.md, the reference table of everything registered: python docs/entries.py (a test compares)."""

from __future__ import annotations

import inspect
from pathlib import Path

from xbench.classifier import CLASSIFIERS, Passes
from xbench.fill import FILLS
from xbench.method import METHODS, Method, TrainedMethod
from xbench.metric import METRICS
from xbench.registry import Entry
from xbench.run.suite import load_suite, suite_names
from xbench.subset import DATASETS

PAGE = Path(__file__).with_name("entries.md")
INTRO = """# Methods, metrics, datasets, classifiers, suites

Made by `python docs/entries.py` from the docstrings. A spec is a name with optional parameters, for instance `rise` or
`rise(masks=2000, seed=1)`; a parameter that is `None` takes its default from the image size, as its description says.
Costs are classifier passes per image: F forward, B backward.
"""


def page() -> str:
    """The page as markdown."""
    parts = [INTRO, "## Methods\n"]
    for cls in METHODS:
        if cls.cost is Method.cost:
            cost = "depends on the classifier, as the description says"
        else:
            small, large = (_cost(cls(), shape) for shape in ((1, 28, 28), (3, 224, 224)))
            cost = f"{small} at 28 px, {large} at 224 px"
        parts.append(_entry(cls, f"Cost: {cost}{_kind(cls)}."))
    parts.append("## Metrics\n")
    for metric in METRICS:
        cells = [(f"`{c.name}`", c.title, c.unit or "-", _direction(c.higher_is_better)) for c in metric().columns]
        rows = "".join(f"| {' | '.join(row)} |\n" for row in cells)
        parts.append(_entry(metric, f"| column | score | unit | better |\n|---|---|---|---|\n{rows}"))
    for title, registry in (("Datasets", DATASETS), ("Classifiers", CLASSIFIERS)):
        parts.append(f"## {title}\n")
        parts += [_entry(cls, "") for cls in registry]
    parts.append("## Fills\n\n" + ", ".join(f"`{name}`" for name in FILLS) + ": what replaces removed pixels.\n")
    parts.append("## Suites\n")
    for name in suite_names():
        suite = load_suite(name)
        runs = ", ".join(f"`{run.spec}` ({run.images or 'all'} images)" for run in suite.metrics)
        parts.append(f"### {name}\n\n{suite.description}\n\n`{suite.dataset}` with `{suite.classifier}`: {runs}.\n")
    return "\n".join(parts)


def _entry(cls: type[Entry], facts: str) -> str:
    spec = ", ".join(f"{key}={value!r}" for key, value in cls().parameters.items())
    text = inspect.getdoc(cls) or ""
    return f"### {cls.name}\n\n`{cls.name}({spec})`\n\n```text\n{text}\n```\n\n{facts}\n".replace("\n\n\n", "\n\n")


def _cost(method: Method, shape: tuple[int, int, int]) -> str:
    cost: Passes = method.cost(shape)
    parts = [f"{value:,.0f} {letter}" for value, letter in ((cost.forward, "F"), (cost.backward, "B")) if value]
    return " + ".join(parts) or "0"


def _kind(cls: type[Method]) -> str:
    if cls.control:
        return "; a control, shown and not ranked"
    return "; trained once per classifier and dataset" if issubclass(cls, TrainedMethod) else ""


def _direction(higher: bool | None) -> str:
    return "reported, not ranked" if higher is None else "higher" if higher else "lower"


if __name__ == "__main__":
    PAGE.write_text(page())

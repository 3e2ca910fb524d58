"""Writes the pages that are made of docstrings, suites and published results: python docs/entries.py (a test compares)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import metric_pictures
from docstrings import as_markdown, sources
from measured import protocols_page, reliability_page

from xbench.classifier import CLASSIFIERS, Classifier, Passes
from xbench.fill import FILLS
from xbench.method import METHODS, Method, TrainedMethod
from xbench.metric import METRICS, Metric
from xbench.registry import Entry
from xbench.run.suite import load_suite, suite_names
from xbench.subset import DATASETS
from xbench.testing.tiny import tiny_classifier, tiny_transformer

FOLDER = Path(__file__).parent
PICTURES = FOLDER / "figures" / "methods"
HEADER = """Made by `python docs/entries.py` from the docstrings. A spec is a name with optional parameters, for instance
`rise` or `rise(masks=2000, seed=1)`; a parameter whose default is `None` takes it from the image size, as its description says.
"""
NOTATION = """In the formulas g is the map, x the image with channels x_k in [0, 1], c the class explained, f_c its logit and
p_c its softmax probability; `up` enlarges to the image's size, `minmax` scales to [0, 1], and masks multiply pixel by pixel.
"""
METHODS_INTRO = f"""# Methods

{HEADER}
{NOTATION}
Costs are classifier passes per image: F forward, B backward. The pictures, made by `python docs/pictures.py`, show the maps of
these digits under `mnist-cnn` at the method's defaults, each scaled to its own minimum and maximum:

![The digits that the pictures explain](figures/methods/images.png)

"""
METRICS_INTRO = f"""# Metrics

{HEADER}
{NOTATION}
Costs are classifier passes per image (F forward, B backward) beside those of the method's own map, for one method on
digits under `mnist-cnn`: `gradient`, or where that does not apply `rise`. The pictures, by `python docs/metric_pictures.py`,
show what a metric looks at, on one digit. What each can tell: [choosing metrics](choosing-metrics.md).

"""
ENTRIES_INTRO = f"""# Datasets, classifiers, fills, suites

{HEADER}
[Methods](methods.md) and [metrics](metrics.md) have pages of their own.

"""


def methods_page() -> str:
    """All methods: definition, formula, parameters, cost, needs, source, picture; the controls last."""
    network, transformer = tiny_classifier(), tiny_transformer()
    parts = []
    for cls in sorted(METHODS, key=lambda cls: cls.control):
        if cls.cost is Method.cost:
            cost = "depends on the classifier, as the description says"
        else:
            small, large = (_cost(cls().cost(shape)) for shape in ((1, 28, 28), (3, 224, 224)))
            cost = f"{small} at 28 px, {large} at 224 px"
        facts = {"Cost": cost, "Needs": _needs(cls, network, transformer), "Source": _source(cls)}
        if (PICTURES / f"{cls.name}.png").exists():
            picture = f"![Maps of {cls.name}](figures/methods/{cls.name}.png)"
        else:
            picture = "No picture: the digits' classifier has nothing that it could explain."
        parts.append(_entry(cls, facts, picture))
    return METHODS_INTRO + "\n".join(parts)


def metrics_page() -> str:
    """All metrics: definition, formula, parameters, columns, cost, needs, source, picture."""
    classifier = CLASSIFIERS.make("mnist-cnn").load()
    parts = []
    for cls in METRICS:
        metric = cls()
        cells = [(f"`{c.name}`", c.title, c.unit or "-", _direction(c.higher_is_better)) for c in metric.columns]
        rows = "".join(f"| {' | '.join(row)} |\n" for row in cells)
        facts = {"Cost": _metric_cost(metric, classifier), "Needs": _metric_needs(metric), "Source": _source(cls)}
        caption = inspect.getdoc(metric_pictures.PICTURES[cls.name])
        picture = f"![{cls.name} on a digit](figures/metrics/{cls.name}.png)\n\n{caption}"
        parts.append(_entry(cls, facts, f"| column | score | unit | better |\n|---|---|---|---|\n{rows}\n{picture}"))
    return METRICS_INTRO + "\n".join(parts)


def entries_page() -> str:
    """Datasets, classifiers, fills and suites."""
    parts = []
    for title, registry in (("Datasets", DATASETS), ("Classifiers", CLASSIFIERS)):
        parts.append(f"## {title}\n")
        parts += [_entry(cls, {"Source": _source(cls)}, "", level=3) for cls in registry]
    parts.append("## Fills\n\n" + ", ".join(f"`{name}`" for name in FILLS) + ": what replaces removed pixels.\n")
    parts.append("## Suites\n")
    for name in suite_names():
        suite = load_suite(name)
        runs = ", ".join(f"`{run.spec}` ({run.images or 'all'} images)" for run in suite.metrics)
        parts.append(f"### {name}\n\n{suite.description}\n\n`{suite.dataset}` with `{suite.classifier}`: {runs}.\n")
    return ENTRIES_INTRO + "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "methods.md": methods_page,
    "metrics.md": metrics_page,
    "entries.md": entries_page,
    "protocols.md": protocols_page,
    "reliability.md": reliability_page,
}


def _entry(cls: type[Entry], facts: dict[str, str], last: str, level: int = 2) -> str:
    defaults = cls().parameters
    spec = ", ".join(f"{key}={value!r}" for key, value in defaults.items())
    said = "\n".join(f"- {name}: {text}" for name, text in facts.items() if text)
    body = [f"{'#' * level} {cls.name}", f"`{cls.name}({spec})`", as_markdown(inspect.getdoc(cls) or "", defaults), said, last]
    return "\n\n".join(part.strip("\n") for part in body if part) + "\n"


def _source(cls: type[Entry]) -> str:
    return ", ".join(f"<{address}>" for address in sources(inspect.getdoc(cls) or ""))


def _needs(cls: type[Method], network: Classifier, transformer: Classifier) -> str:
    """What a classifier must offer, found by asking the method about a convolutional network and about a transformer."""
    method = cls()
    if cls.control:
        return "nothing; a control, shown and not ranked"
    needs = []
    if issubclass(cls, TrainedMethod):
        needs.append("a network of its own, trained once per classifier and dataset (`xbench fit`)")
    if method.cost_for(network).backward:
        needs.append("gradients")
    if method.not_applicable(network) is not None:
        needs.append("the attention of a vision transformer")
    elif method.not_applicable(transformer) is not None:
        needs.append("convolutions")
    return ", ".join(needs) or "the classifier's outputs only"


def _metric_cost(metric: Metric, classifier: Classifier) -> str:
    method = next(
        (one for one in map(METHODS.make, ("gradient", "rise")) if metric.not_applicable(one, classifier) is None), None
    )
    return "" if method is None else f"{_cost(metric.cost(method, classifier))}, with `{method.name}`"


def _metric_needs(metric: Metric) -> str:
    needs = []
    if metric.needs_boxes:
        needs.append("boxes")
    if metric.calibration_images:
        needs.append(f"{metric.calibration_images} held-out images to choose a threshold on")
    if not metric.uses_maps:
        needs.append("other maps than the method's own, made for it")
    return ", ".join(needs) or "maps"


def _cost(cost: Passes) -> str:
    parts = [f"{value:,.0f} {letter}" for value, letter in ((cost.forward, "F"), (cost.backward, "B")) if value]
    return " + ".join(parts) or "0"


def _direction(higher: bool | None) -> str:
    return "reported, not ranked" if higher is None else "higher" if higher else "lower"


if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())

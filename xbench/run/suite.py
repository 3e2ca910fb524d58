"""Suites: which metrics run on which images, classifier and methods; TOML files, validated."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

import pydantic

from xbench.classifier import Classifier
from xbench.errors import XbenchError, unknown
from xbench.method import Method
from xbench.store import slug
from xbench.subset import DATASETS

FOLDER = Path(__file__).resolve().parent.parent / "suites"


class Draws(pydantic.BaseModel, extra="forbid", frozen=True):
    """Repeats of an experiment: ``count`` seeded draws of ``size`` images out of the metric's images."""

    count: int = pydantic.Field(gt=0)
    size: int = pydantic.Field(gt=0)


class MetricRun(pydantic.BaseModel, extra="forbid", frozen=True):
    """A metric by spec, on the first ``images`` images of the subset (all by default)."""

    spec: str
    images: int | None = pydantic.Field(default=None, gt=0)
    draws: Draws | None = None


class Suite(pydantic.BaseModel, extra="forbid", frozen=True):
    """A suite; ``methods`` is a list of specs, or "all" for every registered method at its defaults.

    From "all" those are left out whose map takes more than ``max_passes`` classifier passes, forward and backward together.
    """

    name: str = ""
    title: str
    description: str
    dataset: str
    classifier: str
    methods: Literal["all"] | list[str] = "all"
    max_passes: int | None = pydantic.Field(default=None, gt=0)
    seed: int = 0
    metrics: list[MetricRun] = pydantic.Field(min_length=1)

    @pydantic.field_validator("metrics")
    @classmethod
    def _different(cls, metrics: list[MetricRun]) -> list[MetricRun]:
        specs = [run.spec for run in metrics]
        twice = next((spec for spec in specs if specs.count(spec) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is listed twice")
        return metrics

    def affordable(self, method: Method, classifier: Classifier) -> bool:
        """Whether a method of "all" is cheap enough on the classifier."""
        cost = method.cost_for(classifier)
        return self.max_passes is None or cost.forward + cost.backward <= self.max_passes

    def on(self, dataset: str | None, classifier: str | None) -> Suite:
        """The suite on another dataset (with the classifier that belongs to it) or classifier; its name says so."""
        if dataset is None and classifier is None:
            return self
        chosen = DATASETS.make(dataset or self.dataset)
        own = classifier or (chosen.classifier if dataset else self.classifier)
        if not own:
            raise XbenchError(
                f"dataset {dataset!r} has no classifier of its own: name one with --classifier (xbench list classifiers)"
            )
        changed = {"dataset": chosen.spec, "classifier": own}
        name = "-".join([self.name, *(slug(value) for value in (dataset, classifier) if value)])
        return self.model_copy(update={**changed, "name": name})


def suite_names() -> list[str]:
    """The suites that ship with xbench."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_suite(name: str) -> Suite:
    """A shipped suite by name, or a suite file by path (ending in .toml).

    Raises XbenchError for an unknown name, an unreadable file, or a key or value that does not fit, naming its place.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.exists():
        if name.endswith(".toml"):
            raise XbenchError(f"suite file {name} does not exist")
        raise unknown("suite", name, suite_names())
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise XbenchError(f"suite {path}: cannot be read: {error}") from error
    try:
        return Suite.model_validate({"name": path.stem, **content})
    except pydantic.ValidationError as error:
        raise XbenchError(f"suite {path}: {first_problem(error)}") from error


def first_problem(error: pydantic.ValidationError) -> str:
    """What is wrong with a suite, by the place in its file; for an unknown key the nearest valid one and all of them."""
    problems = error.errors()
    # A misspelt key is also a missing one; the misspelling is what helps.
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{where}: {problem['msg']}"
    model: Any = {"metrics": MetricRun, "draws": Draws}
    owner = next((model[part] for part in reversed(problem["loc"][:-1]) if part in model), Suite)
    valid = sorted(owner.model_fields)
    near = difflib.get_close_matches(str(problem["loc"][-1]), valid, n=1)
    return f"unknown key {where!r}: " + (f"did you mean {near[0]!r}? " if near else "") + f"valid: {', '.join(valid)}"

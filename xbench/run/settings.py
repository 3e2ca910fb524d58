"""Changes to a suite from outside: ``path=value`` settings, addressed as in its file."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

import pydantic

from xbench.errors import XbenchError, unknown
from xbench.metric import METRICS
from xbench.registry import digest
from xbench.run.suite import MetricRun, Suite, first_problem
from xbench.store import slug

NAME = 80
"""The most characters that settings add to a suite's name; of more, a digest takes the end."""


def changed(suite: Suite, settings: Sequence[str] = (), images: int | None = None) -> Suite:
    """The suite with settings such as ``seed=1`` or ``metrics.stability.images=10``; its name says so.

    A step behind ``metrics`` is a metric's place, counted from 0, its full spec, or its name, which means every metric of that
    name. What follows is a key of its table in the suite's file or a parameter of the metric itself, as in
    ``metrics.stability.calls=25``; where it may be both, as ``draws``, a TOML table is the suite's (own decision). A value is
    written as in TOML; what is not TOML is text. ``images`` is set for every metric, before the settings.

    Raises XbenchError that shows the setting for an unknown key, with the nearest valid one, or a value that does not fit.
    """
    content = suite.model_dump()
    if images is not None:
        for run in content["metrics"]:
            run["images"] = images
    for setting in settings:
        path, *value = split_outside(setting, "=", 2)
        if not value:
            raise XbenchError(f"--set {setting}: write path=value, as in --set metrics.stability.images=10")
        _put(content, split_outside(path.strip(), "."), _value(value[0]), f"--set {setting}")
        try:
            Suite.model_validate(content)
        except pydantic.ValidationError as error:
            raise XbenchError(f"--set {setting}: {first_problem(error)}") from error
    changes = [*([] if images is None else [f"images={images}"]), *settings]
    short = "-".join(map(slug, changes))
    if sum(map(len, changes)) > NAME:
        short = f"{short[: NAME - 12]}{digest(changes)[:12]}"
    return Suite.model_validate({**content, "name": "-".join(filter(None, [content["name"], short]))})


def split_outside(text: str, separator: str, most: int = 0) -> list[str]:
    """Text split at a separator, but within brackets and quotation marks, into at most ``most`` parts if that is given."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter == separator and depth == 0 and len(parts) != most:
            parts.append("")
            continue
        else:
            depth += (letter in "([{") - (letter in ")]}")
        parts[-1] += letter
    return parts


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _put(owner: Any, steps: Sequence[str], value: Any, where: str) -> None:
    """Sets what the steps lead to; that a last step is a valid key of a table the models check."""
    step, *rest = steps
    if isinstance(owner, list):
        keys: list[Any] = [i for i, item in enumerate(owner) if step in _names(i, item)]
        if not keys:
            names = {name for i, item in enumerate(owner) for name in _names(i, item)}
            raise XbenchError(f"{where}: {unknown('key', step, names)}")
    elif isinstance(owner, dict):
        if not rest and "spec" in owner and _put_in_metric(owner, step, value, where):
            return
        if rest and step not in owner:
            raise XbenchError(f"{where}: {unknown('key', step, owner)}")
        keys = [step]
    else:
        raise XbenchError(f"{where}: there is no key {step!r} in {owner!r}")
    for key in keys:
        if not rest:
            owner[key] = value
            continue
        if owner[key] is None:
            owner[key] = {}  # a table that the suite leaves out
        _put(owner[key], rest, value, where)


def _put_in_metric(run: dict[str, Any], step: str, value: Any, where: str) -> bool:
    """Sets a parameter in a metric's spec; False if the step is a key of the suite's own."""
    metric = METRICS.make(run["spec"])
    known = metric.parameters
    if step not in known or isinstance(value, dict):
        if step in MetricRun.model_fields:
            return False
        raise XbenchError(f"{where}: {unknown(f'key of {metric.name}', step, {*MetricRun.model_fields, *known})}")
    words = ", ".join(f"{name}={given!r}" for name, given in {**known, step: value}.items())
    try:
        run["spec"] = METRICS.make(f"{metric.name}({words})").spec
    except XbenchError as error:
        raise XbenchError(f"{where}: {error}") from error
    return True


def _names(place: int, item: Any) -> list[str]:
    """What an item of a list is called in a path."""
    if not isinstance(item, dict):
        return [str(place)]
    spec = str(item.get("spec", ""))
    return [str(place), spec, spec.partition("(")[0]]

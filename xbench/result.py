"""A cell's result: per-image scores under a key, with the record of how they were computed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from xbench.metric import Column

Status = Literal["ok", "failed", "n/a", "missing"]


@dataclasses.dataclass(frozen=True)
class Result:
    """One cell (subset x classifier x method x metric) with one score per image and column.

    Args:
        subset, classifier, method, metric: the specs.
        control: True for a control method: shown, not ranked.
        label: what the papers call the method, or "".
        columns: the metric's columns, in order.
        status: ``ok``; ``failed`` (``reason`` is the error); ``n/a`` (``reason`` says why); ``missing`` (not run yet).
        ids: image ids, in order.
        scores: column name to one float per image; NaN has an entry in ``reasons``.
        curves: curve name to one list per image.
        curve_axis: what the points of the curves are, see ``Metric``; None if the curves are not to be drawn.
        map_passes: classifier passes of the method per map, forward and backward together; NaN if not known.
        reasons: column name to {image id: why the score is NaN}.
        draws: lists of positions in ``ids``: repeats of the experiment on subsamples; empty where there are none.
        record: seconds, passes, batch size, machine and software; not part of the key.
    """

    key: str
    subset: str
    classifier: str
    method: str
    metric: str
    columns: tuple[Column, ...]
    status: Status
    control: bool = False
    label: str = ""
    reason: str = ""
    ids: list[str] = dataclasses.field(default_factory=list)
    scores: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    curves: dict[str, list[list[float]]] = dataclasses.field(default_factory=dict)
    curve_axis: tuple[str, float, float | None] | None = None
    map_passes: float = math.nan
    reasons: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    draws: list[list[int]] = dataclasses.field(default_factory=list)
    record: dict[str, Any] = dataclasses.field(default_factory=dict)


def encode(value: Any) -> Any:
    """Floats with 7 significant digits (float32 has no more), NaN and infinities as strings, so that files are strict JSON."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {k: encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    return value


def decode(value: Any) -> Any:
    """Score lists as they were before ``encode``, to 7 digits."""
    if isinstance(value, str):
        return float(value)
    if isinstance(value, dict):
        return {k: decode(v) for k, v in value.items()}
    if isinstance(value, list):
        return [decode(v) for v in value]
    return value

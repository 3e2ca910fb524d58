"""How a board words its numbers, names and holes; shared by all renderings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

HOLES = {"n/a": "N/A", "failed": "failed", "missing": "-"}
ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


def clean(text: str) -> str:
    """Text on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def cut(text: str) -> str:
    """Text on one line of at most 36 characters; its middle goes first, since variants of a method differ at the end."""
    text = clean(text)
    return text if len(text) <= 36 else f"{text[:18]}…{text[-17:]}"


def short_names(summary: pd.DataFrame) -> dict[str, str]:
    """What each method is called where space is short: its label with its parameters; its spec if that would be ambiguous."""
    labels = summary.groupby("method", sort=False)["label"].first()
    names = {str(m): f"{label}{''.join(str(m).partition('(')[1:])}" if label else str(m) for m, label in labels.items()}
    taken = list(names.values())
    return {method: name if taken.count(name) == 1 else method for method, name in names.items()}


def decimals(means: Iterable[float]) -> int:
    """Digits behind the point for a column: 3 for means of order .1 to 1, fewer for larger ones, more for smaller (0 to 6)."""
    largest = max((abs(mean) for mean in means if math.isfinite(mean)), default=0.0)
    if largest == 0:
        return 3
    order = math.floor(math.log10(largest))
    return min(max(3 - order if order >= 0 else 2 - order, 0), 6)


def numbers(values: Iterable[float], digits: int) -> list[str]:
    """A mean, alone or with its interval, with ``digits`` behind the point; in powers of ten if that would be all zeros."""
    values = list(values)
    largest = max(map(abs, values))
    tiny = 0 < largest < 0.5 * 10**-digits
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return [f"{value:.1e}" if tiny else f"{round(value, digits) + 0.0:.{digits}f}" for value in values]


def nan_note(row: Any) -> str:
    """How many scores of a summary row are NaN, as in ``4 of 200 NaN``; "" if none."""
    return f"{round(row.nan_share * row.n)} of {row.n} NaN" if row.nan_share > 0 else ""

"""The errors that xbench raises on purpose; the command line prints them as one line and exits with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class XbenchError(Exception):
    """Something the user gave is wrong; the message names it, what was given and what is valid."""


class NotApplicable(XbenchError):
    """A metric or method does not apply here; the message is the reason shown on the board."""


def unknown(kind: str, given: str, valid: Iterable[str]) -> XbenchError:
    """The error for a name that does not exist: nearest name first, then all valid ones."""
    names = sorted(valid)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(names) if names else "none"
    return XbenchError(f"unknown {kind} {given!r}: {hint}valid: {listed}")

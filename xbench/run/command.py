"""The command line of a run, for whoever wants its numbers again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def command_of(
    suite: str,
    methods: Sequence[str] | None = None,
    limit: int | None = None,
    dataset: str | None = None,
    classifier: str | None = None,
    images: int | None = None,
    settings: Sequence[str] | None = None,
    seed: int | None = None,
    precision: str = "fp32",
) -> str:
    """The command that computes what a board shows, to be printed on it."""
    options = {"--images": images, "--limit": limit, "--dataset": dataset, "--classifier": classifier, "--seed": seed}
    words = ["xbench", "run", "--suite", suite]
    words += [] if precision == "fp32" else ["--precision", precision]
    for method in methods or ():
        words += ["-m", method]
    for setting in settings or ():
        words += ["--set", setting]
    for name, value in options.items():
        words += [] if value is None else [name, str(value)]
    return shlex.join(words)

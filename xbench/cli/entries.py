"""`xbench list` and `xbench check`."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xbench.cli import completing
from xbench.cli.telling import failed, say, show_table

if TYPE_CHECKING:
    from xbench.registry import Registry


class Kind(StrEnum):
    """What can be listed."""

    METHODS = "methods"
    METRICS = "metrics"
    DATASETS = "datasets"
    CLASSIFIERS = "classifiers"
    SUITES = "suites"
    FILLS = "fills"


def list_entries(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Lists the names that specs are made of, with their parameters and defaults."""
    rows = _rows(kind)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    show_table(list(rows[0]), ([_cell(value) for value in row.values()] for row in rows))


def check(
    name: Annotated[
        str,
        typer.Argument(
            help="A method, metric, dataset or classifier, e.g. the one you just wrote.", autocompletion=completing.entries
        ),
    ],
) -> None:
    """Runs the conformance checks on one entry; exit status 1 if it fails one."""
    from xbench.testing import check as check_entry

    try:
        kind = check_entry(name)
    except AssertionError as error:
        failed(f"{name} fails: {error}")
        raise typer.Exit(1) from error
    say(f"{kind} {name} passes all checks")


def _rows(kind: Kind) -> list[dict[str, Any]]:
    if kind is Kind.SUITES:
        from xbench.run.suite import load_suite, suite_names

        return [{"name": name, "what it does": load_suite(name).description} for name in suite_names()]
    if kind is Kind.FILLS:
        from xbench.fill import FILLS

        return [{"name": name} for name in FILLS]
    registry: Registry[Any]
    if kind is Kind.METHODS:
        from xbench.method import METHODS as registry  # type: ignore[assignment]  # noqa: N811
    elif kind is Kind.METRICS:
        from xbench.metric import METRICS as registry  # type: ignore[assignment]  # noqa: N811
    elif kind is Kind.DATASETS:
        from xbench.subset import DATASETS as registry  # type: ignore[assignment]  # noqa: N811
    else:
        from xbench.classifier import CLASSIFIERS as registry  # type: ignore[assignment]  # noqa: N811
    return [
        {"name": cls.name, "what it does": (cls.__doc__ or "").strip().splitlines()[0], "parameters": cls().parameters}
        for cls in registry
    ]


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item!r}" for key, item in value.items())
    return str(value)

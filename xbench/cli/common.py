"""Options and consoles that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

StoreOption = Annotated[Path, typer.Option("--store", help="Folder of results and maps; made if it does not exist.")]
SuiteOption = Annotated[str, typer.Option("--suite", "-s", help="A suite's name (see: xbench list suites) or a .toml file.")]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option("--method", "-m", help="Only this method, by spec, e.g. 'rise(masks=1000)'; may be repeated."),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="At most this many images for every metric.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Images per classifier pass; by default chosen for the image size and device."),
]
STORE = Path("xbench-store")

console = Console()
errors = Console(stderr=True)


def warn(line: str) -> None:
    """A line on stderr about something unusual that does not stop the command."""
    errors.print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True, style="yellow")

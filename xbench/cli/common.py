"""Options and consoles that several commands share."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

StoreOption = Annotated[Path, typer.Option("--store", help="Folder of results and maps; made if it does not exist.")]
SuiteOption = Annotated[str, typer.Option("--suite", "-s", help="A suite's name (see: xbench list suites) or a .toml file.")]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option("--method", "-m", help="Only this method, by spec, e.g. 'rise(masks=1000)'; may be repeated."),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="At most this many images for every metric.")]
DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", help="Another dataset than the suite's, by spec, with the classifier that belongs to it."),
]
ClassifierOption = Annotated[str | None, typer.Option("--classifier", "-c", help="Another classifier, by spec.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Another seed than the suite's; its board is called so.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Images per classifier pass; by default chosen for the image size and device."),
]
STORE = Path("xbench-store")

if TYPE_CHECKING:
    from xbench.run.plan import Plan

console = Console()
errors = Console(stderr=True)


def warn(line: str) -> None:
    """A line on stderr about something unusual that does not stop the command."""
    errors.print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True, style="yellow")


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turns Ctrl-C into one line and exit status 130: what was finished is stored."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print("stopped; what was finished is stored, the same command goes on from there")
        raise typer.Exit(130) from None


def command_of(
    suite: str,
    methods: list[str] | None = None,
    limit: int | None = None,
    dataset: str | None = None,
    classifier: str | None = None,
    seed: int | None = None,
) -> str:
    """The command that computes what a board shows, to be printed on it."""
    options = {"--limit": limit, "--dataset": dataset, "--classifier": classifier, "--seed": seed}
    words = ["xbench", "run", "--suite", suite]
    for method in methods or ():
        words += ["-m", method]
    for name, value in options.items():
        words += [] if value is None else [name, str(value)]
    return shlex.join(words)


def plan_of(
    suite: str,
    store: Path,
    methods: list[str] | None,
    limit: int | None,
    dataset: str | None,
    classifier: str | None,
    device: str = "cpu",
    batch_size: int | None = None,
    *,
    create: bool = True,
    seed: int | None = None,
) -> Plan:
    """The plan that a command's options describe; ``create`` is False for commands that only read a store."""
    from xbench.run.plan import make_plan
    from xbench.run.suite import load_suite
    from xbench.store import Store

    chosen = load_suite(suite).on(dataset, classifier)
    if seed is not None and seed != chosen.seed:
        chosen = chosen.model_copy(update={"seed": seed, "name": f"{chosen.name}-seed-{seed}"})
    opened = Store(store, warn, create=create)
    return make_plan(chosen, opened, methods=methods or (), limit=limit, device=device, batch_size=batch_size)

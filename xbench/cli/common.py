"""Options that several commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xbench.cli import completing
from xbench.cli.telling import STOPPED, errors, warn


class PrecisionName(StrEnum):
    """The arithmetic of passes without gradients."""

    FP32 = "fp32"
    BF16 = "bf16"


StoreOption = Annotated[Path, typer.Option("--store", help="Folder of results and maps; made if it does not exist.")]
SuiteOption = Annotated[
    str,
    typer.Option(
        "--suite", "-s", help="A suite's name (see: xbench list suites) or a .toml file.", autocompletion=completing.suites
    ),
]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        help="Only this method, by spec, e.g. 'rise(masks=1000)'; may be repeated.",
        autocompletion=completing.methods,
    ),
]
MethodListOption = Annotated[
    str | None,
    typer.Option("--methods", help="Only these methods, separated by commas, e.g. 'gradient,rise(masks=1000, seed=1)'."),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="At most this many images for every metric.")]
ImagesOption = Annotated[
    int | None, typer.Option("--images", min=1, help="Exactly this many images for every metric, whatever the suite says.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Another value for a key of the suite or a parameter of a metric, e.g. seed=1, metrics.stability.images=10, "
        "metrics.stability.calls=25 or metrics.0.spec='area(fill=\"zero\")'; may be repeated.",
    ),
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Another dataset than the suite's, by spec, with the classifier that belongs to it.",
        autocompletion=completing.datasets,
    ),
]
ClassifierOption = Annotated[
    str | None,
    typer.Option("--classifier", "-c", help="Another classifier, by spec.", autocompletion=completing.classifiers),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Another seed than the suite's; its board is called so.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Images per classifier pass; by default chosen for the image size and device."),
]
PrecisionOption = Annotated[
    PrecisionName,
    typer.Option(
        "--precision",
        help="Arithmetic of passes without gradients: bf16 is faster, changes scores a little, and has a board of its own.",
    ),
]
STORE = Path("xbench-store")

if TYPE_CHECKING:
    from xbench.run.cells import Plan


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turns Ctrl-C into one line and exit status 130: what was finished is stored."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print("stopped; what was finished is stored, the same command goes on from there")
        raise typer.Exit(STOPPED) from None


def named(method: list[str] | None, methods: str | None) -> list[str] | None:
    """The methods of the options ``-m`` and ``--methods`` together, None for those of the suite."""
    from xbench.run.settings import split_outside

    listed = [] if methods is None else [spec.strip() for spec in split_outside(methods, ",")]
    return [*(method or ()), *listed] or None


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
    images: int | None = None,
    settings: list[str] | None = None,
    create: bool = True,
    seed: int | None = None,
    precision: PrecisionName = PrecisionName.FP32,
) -> Plan:
    """The plan that a command's options describe; ``create`` is False for commands that only read a store."""
    from xbench.run.choice import chosen
    from xbench.run.plan import make_plan
    from xbench.store import Store

    asked = chosen(suite, dataset=dataset, classifier=classifier, images=images, settings=settings or (), seed=seed)
    if precision is not PrecisionName.FP32:
        asked = asked.model_copy(update={"name": f"{asked.name}-{precision.value}"})
    opened = Store(store, warn, create=create)
    return make_plan(
        asked,
        opened,
        methods=methods or (),
        limit=limit,
        device=device,
        batch_size=batch_size,
        precision=precision.value,
    )

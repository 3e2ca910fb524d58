"""`xbench board`, `xbench compare` and `xbench publish`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xbench.cli.common import (
    STORE,
    ClassifierOption,
    DatasetOption,
    ImagesOption,
    LimitOption,
    MethodListOption,
    MethodsOption,
    SetOption,
    StoreOption,
    SuiteOption,
    command_of,
    console,
    named,
    plan_of,
)
from xbench.errors import XbenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xbench.result import Result
    from xbench.run.suite import Suite


def board(
    suite: SuiteOption,
    store: StoreOption = STORE,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to; by default the store's folder boards.")] = None,
    method: MethodsOption = None,
    methods: MethodListOption = None,
    images: ImagesOption = None,
    limit: LimitOption = None,
    settings: SetOption = None,
    dataset: DatasetOption = None,
    classifier: ClassifierOption = None,
) -> None:
    """Makes the board of a suite from stored results, computing nothing: table, rank matrix, figures, per-image values."""
    from xbench.run.runner import collect

    method = named(method, methods)
    made = plan_of(suite, store, method, limit, dataset, classifier, images=images, settings=settings, create=False)
    command = command_of(suite, method, limit, dataset, classifier, images, settings)
    show_and_write(made.suite, collect(made), out or store / "boards", command)


def compare(
    first: Annotated[str, typer.Argument(help="A method, by spec.")],
    second: Annotated[str, typer.Argument(help="Another method, by spec.")],
    suite: SuiteOption,
    store: StoreOption = STORE,
    images: ImagesOption = None,
    limit: LimitOption = None,
    settings: SetOption = None,
    dataset: DatasetOption = None,
    classifier: ClassifierOption = None,
) -> None:
    """Prints how much better one method scores than another on the same images, with 95 % intervals, as a markdown table.

    Reads what `xbench run` with the same options stored, and computes nothing.
    """
    from xbench.board import make_board
    from xbench.board.markdown import comparison
    from xbench.run.runner import collect

    made = plan_of(suite, store, [first, second], limit, dataset, classifier, images=images, settings=settings, create=False)
    results = collect(made)
    if missing := sorted({result.method for result in results if result.status == "missing"}):
        command = command_of(suite, missing, limit, dataset, classifier, images, settings)
        raise XbenchError(f"{store} does not have every score of {', '.join(missing)}: {command}")
    methods = [cell.method.spec for cell in made.cells]
    console.print(
        comparison(make_board(results, made.suite.title), methods[0], methods[-1]),
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def publish(
    suite: SuiteOption,
    store: StoreOption = STORE,
    to: Annotated[Path, typer.Option("--to", help="Folder of published boards.")] = Path("leaderboards"),
    dataset: DatasetOption = None,
    classifier: ClassifierOption = None,
) -> None:
    """Copies a suite's results into a folder of published boards, with the board and the suite that makes it again.

    Refuses results with failed or missing cells.
    """
    from xbench.run.runner import collect

    made = plan_of(suite, store, None, None, dataset, classifier, create=False)
    results = collect(made)
    holes = [f"{r.metric} x {r.method} ({r.status})" for r in results if r.status in ("failed", "missing")]
    if holes:
        listed = ", ".join(holes[:5]) + (" ..." if len(holes) > 5 else "")
        raise XbenchError(f"suite {suite!r} is not complete in {store}: {listed}; run it first")
    for cell in made.cells:
        if not cell.not_applicable:
            target = to / cell.folder.relative_to(store)
            target.mkdir(parents=True, exist_ok=True)
            for part in sorted(cell.folder.glob("part-*.json")):
                shutil.copyfile(part, target / part.name)
    name = made.suite.name
    methods = list(dict.fromkeys(cell.method.spec for cell in made.cells))
    (to / f"{name}.toml").write_text(frozen_suite(made.suite, methods))
    show_and_write(made.suite, results, to, command_of(f"{to}/{name}.toml"))


def show_and_write(suite: Suite, results: Sequence[Result], folder: Path, command: str) -> None:
    """Prints a board and writes its files, naming them."""
    from xbench.board import make_board, terminal, write

    made = make_board(results, title=suite.title, description=suite.description, reproduce=command)
    terminal.show(made, console)
    paths = write(made, folder, suite.name)
    console.print("written: " + ", ".join(str(path) for path in paths), highlight=False, soft_wrap=True)


def frozen_suite(suite: Suite, methods: Sequence[str]) -> str:
    """A suite as TOML with its methods spelled out, so that entries added later do not change a published board."""
    lines = [f"{key} = {json.dumps(getattr(suite, key))}" for key in ("title", "description", "dataset", "classifier", "seed")]
    lines.append("methods = [\n" + "".join(f"    {json.dumps(method)},\n" for method in methods) + "]")
    for run in suite.metrics:
        lines.append(f"\n[[metrics]]\nspec = {json.dumps(run.spec)}")
        if run.images is not None:
            lines.append(f"images = {run.images}")
        if run.draws is not None:
            lines.append(f"draws = {{ count = {run.draws.count}, size = {run.draws.size} }}")
    return "\n".join(lines) + "\n"

"""`xbench board`, `compare`, `papers` and `export`: what can be made of stored results without computing anything."""

from __future__ import annotations

import functools
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
    PrecisionName,
    PrecisionOption,
    SetOption,
    StoreOption,
    SuiteOption,
    named,
    plan_of,
)
from xbench.cli.telling import console, say
from xbench.errors import XbenchError
from xbench.run.command import command_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xbench.board import Board
    from xbench.board.gallery import Gallery
    from xbench.result import Result
    from xbench.run.cells import Plan


def board(
    suite: Annotated[
        list[str],
        typer.Option("--suite", "-s", help="A suite's name or .toml file; repeated: each has its board, and all of them one."),
    ],
    store: StoreOption = STORE,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to; by default the store's folder boards.")] = None,
    method: MethodsOption = None,
    methods: MethodListOption = None,
    images: ImagesOption = None,
    limit: LimitOption = None,
    settings: SetOption = None,
    dataset: DatasetOption = None,
    classifier: ClassifierOption = None,
    name: Annotated[str, typer.Option("--name", help="What the board of several suites is called.")] = "overall",
    other_seed: Annotated[
        list[int] | None,
        typer.Option(
            "--other-seed", help="The suite was run with this --seed too: how far does its ranking agree? Repeatable."
        ),
    ] = None,
    precision: PrecisionOption = PrecisionName.FP32,
) -> None:
    """Makes the board of a suite from stored results, computing nothing: page, site, tables, rank matrix, per-image values.

    Several suites have a board each, and one together with the mean ranks over all of them.
    """
    from xbench.board import make_board, terminal
    from xbench.board.gallery import merged
    from xbench.run.runner import collect

    method = named(method, methods)
    folder = out or store / "boards"
    results: dict[str, list[Result]] = {}
    repeats: dict[int, list[Result]] = {seed: [] for seed in other_seed or ()}
    pictures: list[Gallery] = []
    plan = functools.partial(
        plan_of,
        store=store,
        methods=method,
        limit=limit,
        dataset=dataset,
        classifier=classifier,
        images=images,
        settings=settings,
        create=False,
        precision=precision,
    )

    def command(one: str, seed: int | None = None) -> str:
        return command_of(one, method, limit, dataset, classifier, images, settings, seed, precision)

    for one in suite:
        made = plan(one)
        found = collect(made)
        if all(result.status in ("missing", "n/a") for result in found):
            raise XbenchError(f"{store} has no result of suite {one!r}: {command(one)}")
        again = []
        for seed in repeats:
            more = collect(plan(one, seed=seed))
            if all(result.status == "missing" for result in more):
                raise XbenchError(f"{store} has no results of seed {seed}: {command(one, seed)}")
            again.append(more)
            repeats[seed] += more
        if made.suite.title in results:
            raise XbenchError(f"suite {one!r}: two of the suites have the title {made.suite.title!r}")
        results[made.suite.title] = found
        shown = show_and_write(made, found, folder, command(one), repeats=again)
        pictures += [shown] if shown else []
    if len(results) > 1:
        commands = "\n".join(map(command, suite))
        every = _different([result for found in results.values() for result in found])
        title = name[:1].upper() + name[1:]
        others = [_different(more) for more in repeats.values()]
        overall = make_board(every, title, reproduce=commands, benchmarks=results, repeats=others)
        terminal.show(overall, console)
        _write(overall, folder, name, *merged(pictures))


def compare(
    first: Annotated[str, typer.Argument(help="A method, by spec, or the folder of a store.")],
    second: Annotated[str, typer.Argument(help="Another method, or another store.")],
    suite: SuiteOption,
    store: StoreOption = STORE,
    images: ImagesOption = None,
    limit: LimitOption = None,
    settings: SetOption = None,
    dataset: DatasetOption = None,
    classifier: ClassifierOption = None,
) -> None:
    """Prints how much better one method scores than another on the same images, with 95 % intervals, as a markdown table.

    With two stores: how much better each method scores in the first, for instance with another version. Reads what `xbench run`
    with the same options stored, and computes nothing.
    """
    from xbench.board import make_board
    from xbench.board.comparing import methods_table, stores_table
    from xbench.run.runner import collect

    plan = functools.partial(
        plan_of, suite, limit=limit, dataset=dataset, classifier=classifier, images=images, settings=settings, create=False
    )
    if all((Path(place) / "results").is_dir() for place in (first, second)):
        both = [collect(plan(Path(place), None)) for place in (first, second)]
        text = stores_table(both[0], both[1], first, second)
    else:
        made = plan(store, [first, second])
        results = collect(made)
        if missing := sorted({result.method for result in results if result.status == "missing"}):
            command = command_of(suite, missing, limit, dataset, classifier, images, settings)
            raise XbenchError(f"{store} does not have every score of {', '.join(missing)}: {command}")
        methods = [cell.method.spec for cell in made.cells]
        text = methods_table(make_board(results, made.suite.title), methods[0], methods[-1])
    say(text)


def papers(
    suite: SuiteOption,
    store: StoreOption = STORE,
    out: Annotated[Path | None, typer.Option("--out", help="Markdown file to write; by default it is printed.")] = None,
    dataset: DatasetOption = None,
    classifier: ClassifierOption = None,
) -> None:
    """Shows stored results beside the numbers that papers published, with the agreement of the rankings and what differs."""
    from xbench.board import make_board
    from xbench.board.papers import against_papers
    from xbench.files import atomic
    from xbench.run.runner import collect

    made = plan_of(suite, store, None, None, dataset, classifier, create=False)
    text = against_papers(
        make_board(collect(made), made.suite.title, reproduce=command_of(suite, None, None, dataset, classifier))
    )
    if out is None:
        say(text)
        return
    with atomic(out) as temporary:
        temporary.write_text(text)
    say(f"written: {out}")


def export(
    suite: SuiteOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .csv, or .parquet (needs the extra parquet).")],
    store: StoreOption = STORE,
    dataset: DatasetOption = None,
    classifier: ClassifierOption = None,
) -> None:
    """Writes every stored score of a suite as one tidy table: a row per metric, column, method and image."""
    from xbench.board.exporting import export as write_table
    from xbench.run.runner import collect

    made = plan_of(suite, store, None, None, dataset, classifier, create=False)
    count = write_table(collect(made), made.suite.seed, out)
    say(f"written: {out}, {count:,} rows")


def show_and_write(
    plan: Plan,
    results: Sequence[Result],
    folder: Path,
    command: str,
    *,
    repeats: Sequence[Sequence[Result]] = (),
    tell: Callable[[str], None] = say,
) -> Gallery | None:
    """Prints the board of a plan and writes its files, naming them by ``tell``; returns the pictures of its page."""
    from xbench.board import make_board, terminal
    from xbench.cli.gallery import gallery

    suite = plan.suite
    made = make_board(results, title=suite.title, description=suite.description, reproduce=command, repeats=repeats)
    terminal.show(made, console)
    pictures = gallery(plan)
    _write(made, folder, suite.name, *([pictures] if pictures else []), tell=tell)
    return pictures


def _write(made: Board, folder: Path, name: str, *pictures: Gallery, tell: Callable[[str], None] = say) -> None:
    from xbench.board import write

    paths = write(made, folder, name, *pictures)
    tell("written: " + ", ".join(str(path) for path in paths))


def _different(results: Sequence[Result]) -> list[Result]:
    """Results without the second of two that are of the same key: suites may share cells."""
    return list({(result.key, result.metric, result.method): result for result in results}.values())

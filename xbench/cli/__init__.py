"""The command line. Commands import what they need when they run, so that help is printed at once."""

from __future__ import annotations

from collections.abc import Callable

import typer

from xbench import __version__
from xbench.cli import boards, creating, doctor, entries, explaining, fitting, publishing, running, stores
from xbench.cli.telling import Commands, main_of, speaking

app = typer.Typer(
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The benchmark of visual feature attribution: which explanation of an image classifier can be trusted?\n\n"
    "Start with [bold]xbench run --suite smoke[/bold]. Exit status: 0 all done, 1 some cells or checks failed, "
    "2 wrong input, 130 stopped by Ctrl-C.",
)
COMMANDS: dict[str, Callable[..., None]] = {
    "list": entries.list_entries,
    "plan": running.plan,
    "run": running.run,
    "board": boards.board,
    "compare": boards.compare,
    "papers": boards.papers,
    "export": boards.export,
    "publish": publishing.publish,
    "verify": publishing.verify,
    "merge": stores.merge,
    "cache": stores.cache,
    "explain": explaining.explain,
    "check": entries.check,
    "new": creating.new,
    "doctor": doctor.doctor,
    "fit": fitting.fit,
    "fit-classifier": fitting.fit_classifier,
    "fit-inpainter": fitting.fit_inpainter,
    "subset": fitting.subset,
}
for name, function in COMMANDS.items():
    app.command(name)(speaking(function))


def _version(show: bool) -> None:
    if show:
        typer.echo(f"xbench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Runs the command line; wrong input ends in one line on stderr and status 2."""
    main_of(app)

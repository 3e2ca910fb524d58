"""The command line. Commands import what they need when they run, so that help is printed at once."""

from __future__ import annotations

import os
import sys

import typer

from xbench import __version__
from xbench.cli import boards, entries, explaining, fitting, publishing, running, stores
from xbench.cli.common import STOPPED
from xbench.errors import XbenchError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The benchmark of visual feature attribution: which explanation of an image classifier can be trusted?\n\n"
    "Start with [bold]xbench run --suite smoke[/bold]. Exit status: 0 all done, 1 some cells or checks failed, "
    "2 wrong input, 130 stopped by Ctrl-C.",
)
app.command("list")(entries.list_entries)
app.command("plan")(running.plan)
app.command("run")(running.run)
app.command("board")(boards.board)
app.command("compare")(boards.compare)
app.command("papers")(boards.papers)
app.command("export")(boards.export)
app.command("publish")(publishing.publish)
app.command("verify")(publishing.verify)
app.command("merge")(stores.merge)
app.command("explain")(explaining.explain)
app.command("check")(entries.check)
app.command("fit")(fitting.fit)
app.command("fit-classifier")(fitting.fit_classifier)
app.command("fit-inpainter")(fitting.fit_inpainter)
app.command("subset")(fitting.subset)


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
    try:
        app()
    except SystemExit as end:
        if end.code == STOPPED:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(STOPPED)  # Python would take longer to take its modules down than a user who stops it wants to wait
        raise
    except XbenchError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        typer.echo(f"error: {where}{error.strerror or error}", err=True)
        sys.exit(2)

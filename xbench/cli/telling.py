"""What commands say and how loudly: the consoles, ``--quiet`` and ``--verbose``, and the one line that wrong input ends in."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xbench.errors import XbenchError, unknown

console = Console()
"""For what a command says while it works: silent under ``--quiet``."""
results = Console()
"""For what was asked for, and for the line that a command ends with."""
errors = Console(stderr=True)

UsageError: type[Exception] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "UsageError")
"""What typer raises for wrong words on the command line; which package it lies in depends on typer's version."""


STOPPED = 130
"""Exit status of a command that Ctrl-C has stopped."""


class Detail:
    """Whether ``--verbose`` was given."""

    wanted = False


def warn(line: str) -> None:
    """A line on stderr about something unusual that does not stop the command; not under ``--quiet``."""
    if not console.quiet:
        errors.print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True, style="yellow")


def failed(line: str) -> None:
    """A line on stderr about something that failed."""
    errors.print(line, markup=False, highlight=False, soft_wrap=True, style="red")


def say(line: str) -> None:
    """The line that a command ends with, or that was asked for, as it is."""
    results.print(line, markup=False, highlight=False, soft_wrap=True)


def note(line: str) -> None:
    """A line said while a command works, as it is; not under ``--quiet``."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_table(titles: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """A table on a terminal; elsewhere a line a row, its cells separated by tabs, the first with their titles."""
    if not results.is_terminal:
        for row in [titles, *rows]:
            typer.echo("\t".join(" ".join(cell.split()) for cell in row))
        return
    table = Table(title=title, title_justify="left")
    for name in titles:
        table.add_column(escape(name), overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    results.print(table)


def speaking(function: Callable[..., None]) -> Callable[..., None]:
    """A command with the options ``--quiet`` and ``--verbose``, which it need not know of."""
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()]
    options: dict[str, Any] = {
        "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Only errors, and the result or the last line.")],
        "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="More detail, and tracebacks of errors.")],
    }
    parameters += [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=o) for n, o in options.items()
    ]

    @functools.wraps(function)
    def command(*args: Any, quiet: bool, verbose: bool, **given: Any) -> None:
        console.quiet, Detail.wanted = quiet, verbose
        function(*args, **given)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = hints | options
    return command


class Commands(typer.core.TyperGroup):
    """The commands; an unknown one is answered with all of them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer does; XbenchError for a name that is none."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise unknown("command", args[0], self.commands)
        return super().resolve_command(ctx, args)


def main_of(app: typer.Typer) -> None:
    """Runs the command line ``xbench``; wrong input ends in one line on stderr and status 2."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    console.quiet = Detail.wanted = False  # what fails before a command has its options is told
    try:
        status = app(prog_name="xbench", standalone_mode=False)
    except typer.Abort:
        errors.print("stopped")
        status = STOPPED
    except UsageError as error:
        _end(_usage(error))
    except XbenchError as error:
        _end(str(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename} cannot be read or written: "
        _end(f"{where}{error.strerror or error}")
    if status == STOPPED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(STOPPED)  # Python would take longer to take its modules down than a user who stops it wants to wait
    sys.exit(status or 0)


def _end(message: str) -> typing.NoReturn:
    if Detail.wanted:
        traceback.print_exc()
    typer.echo(f"error: {message}", err=True)
    sys.exit(2)


def _usage(error: Any) -> str:
    """What typer finds wrong, on one line: with the valid options for an unknown one, with its help for a missing one."""
    context, parameter = error.ctx, getattr(error, "param", None)
    message = " ".join(error.format_message().split()).rstrip(".")
    if context is None:  # typer does not say which command an option without its value is of
        command = " ".join(word for word in sys.argv[1:2] if not word.startswith("-"))
        return f"{message}; see: xbench {command} --help".replace("  ", " ")
    command = context.command_path
    if hasattr(error, "possibilities"):
        valid = [name for option in context.command.get_params(context) for name in option.opts if name.startswith("--")]
        return str(unknown(f"option of {command}", error.option_name, valid))
    about = getattr(parameter, "help", None)
    if message.startswith("Missing") and about:
        message += f": {about.rstrip('.')}"
    given = _given(getattr(parameter, "opts", ()))
    if message.startswith("Invalid") and given and repr(given) not in message:
        message += f", given {given!r}"  # some versions of typer do not say it
    return f"{message}; see: {command} --help"


def _given(names: Sequence[str]) -> str | None:
    """The value that the command line gives to an option of these names."""
    for word, following in zip(sys.argv, [*sys.argv[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else following
    return None

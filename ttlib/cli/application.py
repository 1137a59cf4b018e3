"""What all commands share: one application, an example in every help, mistakes in one line, no traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ParamSpec, TypeAlias

import typer
from typer.core import TyperGroup

from ttlib import __version__
from ttlib.errors import TTError

_P = ParamSpec("_P")

# Options that several commands have.
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it is there.")]

# A mistake in the command line: UsageError of click, of which newer releases of typer carry their own copy.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]
# What people can mend: the library's refusals, files, packages that are missing, and sizes beyond the memory.
_MENDABLE = (TTError, OSError, ImportError, MemoryError)


class CommandError(TTError, ValueError):
    """A command that cannot be carried out as it was asked for."""


class _Application(TyperGroup):
    """Commands whose mistakes take one line instead of typer's box with the usage."""

    def main(self, *args: Any, **extra: Any) -> Any:
        is_program = extra.pop("standalone_mode", True)
        options = {**extra, "standalone_mode": False}
        if not is_program:
            return super().main(*args, **options)
        try:
            code = super().main(*args, **options)
        except typer.Abort:  # Ctrl-C
            sys.exit(130)
        except _UsageError as mistake:
            fact = mistake.format_message().rstrip(".")
            where = f"; see {mistake.ctx.command_path} --help" if mistake.ctx else ""
            say(f"error: {fact[:1].lower()}{fact[1:]}{where}")
            sys.exit(2)
        sys.exit(code)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # typer's order is that of imports
        return sorted(self.commands)


def group(name: str, *, help: str) -> typer.Typer:  # noqa: A002  # typer's word
    """Return a group of commands, which shows its help when no command follows."""
    made = typer.Typer(
        name=name,
        help=help,
        cls=_Application,
        invoke_without_command=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    made.callback()(_help_without_command)
    return made


def command(of: typer.Typer, /, *, example: str) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """Make a function a command of a group: its help ends in *example*, and what it refuses is one line on stderr.

    The name is that of the function; typer reads the options from the signature and the help from the docstring.  An
    example of up to 78 characters stays on one line.
    """

    def register(function: Callable[_P, None]) -> Callable[_P, None]:
        @functools.wraps(function)
        def run(*args: _P.args, **options: _P.kwargs) -> None:
            with mistakes_in_one_line():
                function(*args, **options)

        of.command(epilog=f"Example:\n\n{example}")(run)
        return run

    return register


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Turn what people can mend into one line on stderr and exit code 2."""
    try:
        yield
    except BrokenPipeError:  # the reader has seen enough, as `head` has; typer then ends without a word
        raise
    except _MENDABLE as error:
        say(f"error: {str(error) or type(error).__name__}")
        raise typer.Exit(2) from error


def say(message: str) -> None:
    """Print one line on stderr: stdout holds the results alone."""
    typer.echo(" ".join(message.split()), err=True)


def _help_without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ttlib {__version__}")
        raise typer.Exit


def _application(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  # acts through its callback
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    _help_without_command(context)


app = group("ttlib", help="Tensor trains from the command line: shapes, counts, plans, decompositions, pictures.")
app.callback()(_application)

"""Results on stdout: tables, lines of a name and a value, JSON; whole wherever they go."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A file or a pipe has no width: rich would take 80 columns and cut what does not fit.
_WIDTH_OF_A_FILE = 1_000_000
_BITS_OF_A_DOUBLE = 1023


def print_table(words: Sequence[str], numbers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below the titles *words*, aligned left, and *numbers*, aligned right.

    In a terminal long words are folded to its width; elsewhere every row is one line.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for title in words:
        table.add_column(Text(title), overflow="fold")
    for title in numbers:
        table.add_column(Text(title), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # as they are: a name with brackets is no markup
    width = None if sys.stdout.isatty() else _WIDTH_OF_A_FILE
    Console(highlight=False, width=width).print(table)


def print_fields(fields: Mapping[str, str]) -> None:
    """Print a line a field, the values one below the other."""
    width = max(map(len, fields))
    for name, value in fields.items():
        typer.echo(f"{name.ljust(width)}  {value}")


def print_json(value: Mapping[str, Any]) -> None:
    """Print JSON; what no double can hold (the entries of a train of 400 modes, an infinite norm) becomes null."""
    typer.echo(json.dumps(_standard(value), indent=2, allow_nan=False))


def printable(name: str | os.PathLike[str]) -> str:
    r"""Return a name from outside such that it cannot act on a terminal, unchanged where it could not.

    >>> printable("layers.0.weight"), printable("red" + chr(27) + "[31m")
    ('layers.0.weight', "'red\\x1b[31m'")
    """
    text = os.fspath(name)
    return text if text.isprintable() else ascii(text)


def write_compression(compression: float) -> str:
    """Return a compression for people.

    >>> write_compression(63.015), write_compression(float("inf"))
    ('63.0x', '> 1e308x')
    """
    return f"{compression:,.1f}x" if math.isfinite(compression) else "> 1e308x"


def _standard(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _standard(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [_standard(own) for own in value]
    is_beyond = isinstance(value, int) and value.bit_length() > _BITS_OF_A_DOUBLE
    return None if is_beyond or (isinstance(value, float) and not math.isfinite(value)) else value

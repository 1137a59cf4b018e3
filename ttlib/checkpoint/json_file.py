"""Files of one JSON object: written whole or not at all, read within bounds, refused with the name of the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ttlib._files import replacing
from ttlib._json import Json, check, parse_object, refuse
from ttlib.errors import TTFileError

LARGEST = 1 << 30  # bytes; a file may come from anywhere, and this bounds the memory that reading takes

_T = TypeVar("_T")


def store(path: str | os.PathLike[str], content: Json, /, *, indent: int | None = None) -> None:
    """Write an object, the same bytes for the same one; TTFileError where that cannot be done."""
    try:
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(content, indent=indent, allow_nan=False) + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        msg = f"cannot save {os.fspath(path)!r}: {error}; make room or choose another path"
        raise TTFileError(msg) from error


def load(
    path: str | os.PathLike[str], parse: Callable[[Json], _T], /, *, what: str, form: tuple[str, int], remedy: str
) -> _T:
    """Return what *parse* makes of the object in a file.

    Args:
        path: the file.
        parse: may raise TTFileError, or ValueError, TypeError and KeyError for what cannot be.
        what: "the plan", for messages.
        form: the values that `format` and `version` must have.
        remedy: what can be done about a file that cannot be read.

    Raises:
        FileNotFoundError: there is no such file.
        TTFileError: anything else, with the name of the file.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            refuse(f"the size of {what}", len(text), f"{LARGEST} bytes at most", remedy)
        content = parse_object(text.decode(), what, remedy)
        for name, value in zip(("format", "version"), form, strict=True):
            check(name, content.get(name), value)
        return parse(content)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        msg = f"cannot read {what} {os.fspath(path)!r}: {error}"
        raise TTFileError(msg) from error

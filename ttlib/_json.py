"""JSON that a stranger may have written: parsed with bounds, and refused with the fact, the value and the remedy."""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any, NoReturn, TypeAlias

from ttlib.errors import TTFileError

_DEEPEST = 32
_LONGEST_SHOWN = 80

DAMAGED = "the file is damaged or was changed: restore it from a copy, or write it again"

Json: TypeAlias = dict[str, Any]


def parse_object(text: str, what: str, remedy: str) -> Json:
    """Return a JSON object; names that occur twice, NaN and deep nesting are refused with TTFileError."""
    depth = 0
    # Strings are one token each, so that their brackets do not count; one that never ends runs to the end.
    for token in re.finditer(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[][{}]', text, re.DOTALL):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > _DEEPEST:
            refuse(f"the depth of {what}", f"more than {_DEEPEST}", f"{_DEEPEST} at most", remedy)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except ValueError as error:
        msg = f"{what} is not valid JSON ({error}); {remedy}"
        raise TTFileError(msg) from error
    if not isinstance(value, dict):
        refuse(what, value, "a JSON object", remedy)
    return value


def check(field: str, found: object, expected: object) -> None:
    """Raise TTFileError unless both are equal."""
    if found != expected:
        refuse(field, found, show(expected))


def refuse(field: str, found: object, expected: str, remedy: str = DAMAGED) -> NoReturn:
    """Raise TTFileError: the fact, the value, the remedy.  `load` adds the name of the file."""
    msg = f"{field} is {show(found)}, expected {expected}; {remedy}"
    raise TTFileError(msg)


def show(value: object) -> str:
    """A short form of a value: a field may be a megabyte long."""
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "…")
    return reprlib.repr(value)


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    value = dict(pairs)
    if len(value) < len(pairs):
        msg = "a name occurs twice in one object"
        raise ValueError(msg)
    return value


def _no_number(text: str) -> NoReturn:
    msg = f"{text} is not a number in JSON"
    raise ValueError(msg)

"""Which regular expressions are safe to match against every module name of a model.

Python's `re` backtracks: (a+)+$ takes seconds on one name of thirty characters.  A configuration may come from a
stranger's file, so a pattern that can backtrack without bound is refused before it meets a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from re import _constants as op  # type: ignore[attr-defined]  # the parse tree has no public name
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

LONGEST_PATTERN = 10_000
# n characters and d free repeats in a row cost n^d / d! steps: 4 keep a name of 100 characters below 0.1 s.
MOST_FREE_REPEATS = 4
MOST_OPTIONAL_PARTS = 12

_REPEATS = {op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT}


def check_pattern(pattern: object, name: str) -> str:
    r"""Return *pattern*, or raise ValueError unless it is a regular expression that is matched fast on any name.

    >>> check_pattern(r".*\.(q_proj|v_proj)", "target_modules")
    '.*\\.(q_proj|v_proj)'

    Refused: what does not compile, repeats inside repeats (except where each turn of the outer one is marked by a
    character that the inner one cannot match, as in ([^.]+\.)*), more than 4 repeats such as .* in a row,
    back-references, and more than 10,000 characters.  *name* is the setting, for the message.
    """
    if not isinstance(pattern, str):
        msg = f"{name} must be a string, got {pattern!r}"
        raise TypeError(msg)
    if len(pattern) > LONGEST_PATTERN:
        msg = (
            f"{name} has {len(pattern)} characters, at most {LONGEST_PATTERN} are allowed: give a list of names instead"
        )
        raise ValueError(msg)
    try:
        tree = parser.parse(pattern)
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        msg = f"{name} {_short(pattern)} is not a regular expression that Python can compile: {error}"
        raise ValueError(msg) from None
    fault = _fault(tree)
    if fault:
        msg = f"{name} {_short(pattern)} could take for ever to match, because of {fault}: give a list of names instead"
        raise ValueError(msg)
    return pattern


def _short(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 80 else pattern[:77] + "…")


def _fault(tree: Any) -> str | None:
    for code, argument in _walk(tree):
        if code in (op.GROUPREF, op.GROUPREF_EXISTS):
            return "a back-reference"
        if code in _REPEATS and argument[1] > 1 and not _is_unambiguous(argument[2], fixed=argument[0] == argument[1]):
            return "a repeat around another repeat or around alternatives"
    free, optional = _choices(tree)
    if free > MOST_FREE_REPEATS:
        return f"{free} unlimited repeats in a row (at most {MOST_FREE_REPEATS})"
    if optional > MOST_OPTIONAL_PARTS:
        return f"{optional} optional parts in a row (at most {MOST_OPTIONAL_PARTS})"
    return None


def _walk(tree: Any) -> Iterator[tuple[Any, Any]]:
    for code, argument in tree:
        yield code, argument
        for inner in _inside(code, argument):
            yield from _walk(inner)


def _inside(code: Any, argument: Any) -> list[Any]:
    """The subpatterns of one element of a parse tree."""
    if code is op.SUBPATTERN:
        return [argument[-1]]
    if code is op.BRANCH:
        return list(argument[1])
    if code in _REPEATS:
        return [argument[2]]
    if code in (op.ASSERT, op.ASSERT_NOT):
        return [argument[1]]
    return [argument] if code is op.ATOMIC_GROUP else []


def _flat(tree: Any) -> list[tuple[Any, Any]]:
    """The elements in a row, those of groups included."""
    return [
        element
        for code, argument in tree
        for element in (_flat(argument[-1]) if code is op.SUBPATTERN else [(code, argument)])
    ]


def _is_unambiguous(body: Any, *, fixed: bool) -> bool:
    """Tell whether a text can be cut into repetitions of *body* in one way at most."""
    elements = _flat(body)
    single = (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN)
    varying = [element for element in elements if element[0] not in single]
    if not varying:
        return True
    if len(elements) == 1 and varying[0][0] is op.BRANCH:
        return not fixed and _is_prefix_code(varying[0][1][1])
    # one inner repeat of a class of characters, and otherwise characters outside that class
    if len(varying) > 1 or varying[0][0] not in _REPEATS or len(elements) == 1:
        return False
    repeated = _flat(varying[0][1][2])
    marks = [element for element in elements if element is not varying[0]]
    return len(repeated) == 1 and all(code is op.LITERAL and not _matches(repeated[0], mark) for code, mark in marks)


def _is_prefix_code(branches: Iterable[Any]) -> bool:
    texts = []
    for branch in branches:
        elements = _flat(branch)
        if not elements or any(code is not op.LITERAL for code, _ in elements):
            return False
        texts.append("".join(chr(character) for _, character in elements))
    return not any(a.startswith(b) for i, a in enumerate(texts) for k, b in enumerate(texts) if i != k)


def _matches(element: tuple[Any, Any], character: int) -> bool:
    """Tell whether a one-character element can match *character*; True where that is not plain to see."""
    tree = parser.SubPattern(parser.State(), [element])
    code = element[0]
    if code is op.LITERAL:
        return bool(element[1] == character)
    if code is op.NOT_LITERAL:
        return bool(element[1] != character)
    if code is op.IN:
        return re._compiler.compile(tree).fullmatch(chr(character)) is not None  # type: ignore[attr-defined]
    return True


def _choices(tree: Any) -> tuple[int, int]:
    """Count free repeats and optional parts on the worst way through the pattern."""
    free = optional = 0
    elements = _flat(tree)
    for k, (code, argument) in enumerate(elements):
        inner = [_choices(part) for part in _inside(code, argument)]
        most = [max((counts[i] for counts in inner), default=0) for i in (0, 1)]
        times = argument[0] if code in _REPEATS and argument[0] == argument[1] else 1
        free, optional = free + times * most[0], optional + times * most[1]
        if code in _REPEATS and argument[0] != argument[1]:
            if argument[1] <= 1:
                optional += 1
            elif not _is_delimited(argument[2], elements[k + 1 : k + 2]):
                free += 1
    return free, optional


def _is_delimited(body: Any, following: list[tuple[Any, Any]]) -> bool:
    """Tell whether a repeat ends where the next character begins, so that there is nothing to try."""
    repeated = _flat(body)
    return (
        len(repeated) == 1
        and bool(following)
        and following[0][0] is op.LITERAL
        and not _matches(repeated[0], following[0][1])
    )

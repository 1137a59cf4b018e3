"""The analysis of a weight as plain JSON values, and the checks that such values are one.

{"name", "rows", "cols", "dtype", "norm", "tokens",
 "spectra": [{"left", "right", "values", "rest", "rest_low", "floor"}, …],
 "shapes":  [{"shape", "split", "at_ranks": [{…}, …], "at_eps": [{…}, …]}, …]}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate, pairwise
from operator import mul
from typing import Any, NoReturn

from ttlib._json import Json, refuse

_Check = Callable[[object, str], Any]

_REMEDY = "the record is damaged or of another version: analyse the weight again"


def plain(value: Any) -> Any:
    """Return *value* with its tuples as lists, as JSON reads them back."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def checked_weight(found: object) -> Json:
    """Return the fields of an analysis, checked one by one and against each other, with tuples for lists.

    Raises TTFileError naming the field that cannot be, with its value.
    """
    weight: Json = _fields(_WEIGHT)(found, "the analysis")
    size = weight["rows"] * weight["cols"]
    lefts = set()
    for k, spectrum in enumerate(weight["spectra"]):
        where = f"spectra[{k}]"
        left, right, values = spectrum["left"], spectrum["right"], spectrum["values"]
        if left * right != size:
            _refuse(f"left * right of {where}", left * right, f"{size}, the entries of the weight")
        if len(values) > min(left, right) or any(below > above for above, below in pairwise(values)):
            _refuse(f"{where}.values", values, f"at most {min(left, right)} numbers, descending")
        lefts.add(left)
    for k, entry in enumerate(weight["shapes"]):
        _check_shape(entry, f"shapes[{k}]", weight["rows"], size, lefts)
    return weight


def _check_shape(entry: Json, where: str, rows: int, size: int, lefts: set[int]) -> None:
    shape, split = entry["shape"], entry["split"]
    if math.prod(shape) != size:
        _refuse(f"{where}.shape", shape, f"modes that multiply to {size}")
    if split is not None and (split >= len(shape) or math.prod(shape[:split]) != rows):
        _refuse(f"{where}.split", split, f"the number of leading modes that multiply to {rows}, or null")
    missing = set(accumulate(shape[:-1], mul)) - lefts
    if missing:
        _refuse(f"{where}.shape", shape, f"modes whose bonds all have a spectrum (none for left {sorted(missing)})")
    for at in (*entry["at_ranks"], *entry["at_eps"]):
        ranks = at["ranks"]
        if ranks is not None and (len(ranks) != len(shape) + 1 or ranks[0] != 1 or ranks[-1] != 1):
            _refuse(f"ranks in {where}", ranks, f"{len(shape) + 1} ranks with 1 at both ends")


def _refuse(field: str, found: object, expected: str) -> NoReturn:
    refuse(field, found, expected, _REMEDY)


def _text(found: object, where: str) -> str:
    if not isinstance(found, str):
        _refuse(where, found, "text")
    return found


def _integer(found: object, where: str) -> int:
    if type(found) is not int or found < 1:  # true is an int in Python
        _refuse(where, found, "an integer >= 1")
    return found


def _count(found: object, where: str) -> int:
    if type(found) is not int or found < 0:
        _refuse(where, found, "an integer >= 0")
    return found


def _number(found: object, where: str) -> float:
    if type(found) not in (int, float) or not 0 <= found < math.inf:  # type: ignore[operator]
        _refuse(where, found, "a finite number >= 0")
    return float(found)  # type: ignore[arg-type]


def _or_null(check: _Check) -> _Check:
    return lambda found, where: None if found is None else check(found, where)


def _list(check: _Check) -> _Check:
    def checked(found: object, where: str) -> tuple[Any, ...]:
        if not isinstance(found, list):
            _refuse(where, found, "a list")
        return tuple(check(entry, f"{where}[{k}]") for k, entry in enumerate(found))

    return checked


def _fields(checks: dict[str, _Check]) -> _Check:
    def checked(found: object, where: str) -> Json:
        if not isinstance(found, dict):
            _refuse(where, found, "an object")
        if found.keys() != checks.keys():
            _refuse(f"the keys of {where}", sorted(map(str, found)), f"{sorted(checks)}")
        return {key: check(found[key], f"{where}.{key}") for key, check in checks.items()}

    return checked


_SPECTRUM = {
    "left": _integer,
    "right": _integer,
    "values": _list(_number),
    "rest": _number,
    "rest_low": _number,
    "floor": _number,
}
_AT_RANK = {
    "rank": _integer,
    "ranks": _list(_integer),
    "parameters": _integer,
    "compression": _number,
    "error_low": _number,
    "error_high": _number,
    "flops": _or_null(_count),
}
_AT_TOLERANCE = {
    "eps": _number,
    "ranks": _or_null(_list(_integer)),
    "parameters": _or_null(_integer),
    "compression": _or_null(_number),
}
_SHAPE = {
    "shape": _list(_integer),
    "split": _or_null(_integer),
    "at_ranks": _list(_fields(_AT_RANK)),
    "at_eps": _list(_fields(_AT_TOLERANCE)),
}
_WEIGHT: dict[str, _Check] = {
    "name": _text,
    "rows": _integer,
    "cols": _integer,
    "dtype": _text,
    "norm": _number,
    "tokens": _integer,
    "spectra": _list(_fields(_SPECTRUM)),
    "shapes": _list(_fields(_SHAPE)),
}

"""The machine model on disk: where it is, how it is written, and the checks that it passes when it is read."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ttlib._files import replacing
from ttlib.errors import TTFileError
from ttlib.planning.machine import BUILT_IN, ITEMSIZES, RATE_TABLE_SHAPE, TRANSFERS, MachineModel, Overhead

VARIABLE = "TTLIB_MACHINE"
_FORMAT, _VERSION = "ttlib machine model", 1
_LARGEST_FILE = 1 << 20  # ours have some ten thousand bytes
_REMEDY = "delete it, or measure this machine again with ttlib.calibrate()"


def current_model() -> MachineModel:
    """Return the model in the file that this process uses, read once, or the built-in one where there is no file."""
    return _load(os.environ.get(VARIABLE), os.environ.get("XDG_CACHE_HOME"))


def forget() -> None:
    """Have the file looked at again."""
    _load.cache_clear()


def default_path() -> Path:
    """Return where the model is kept: $TTLIB_MACHINE, or ttlib/machine.json in the user's folder for caches."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    if sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches"
    else:  # XDG Base Directory Specification: a relative path is to be ignored
        named = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = named if named.is_absolute() else Path.home() / ".cache"
    return folder / "ttlib" / "machine.json"


def write_model(path: Path, model: MachineModel) -> None:
    """Write *model* as JSON, whole or not at all."""
    content = {"format": _FORMAT, "version": _VERSION, **asdict(model)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def read_model(path: Path) -> MachineModel:
    """Read what `write_model` wrote; FileNotFoundError where there is none, TTFileError for anything else."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_LARGEST_FILE + 1)[:_LARGEST_FILE])
        return _model(content)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        msg = f"the machine model {path} cannot be used ({error}): {_REMEDY}"
        raise TTFileError(msg) from error


@functools.lru_cache(maxsize=8)
def _load(*_: str | None) -> MachineModel:
    with suppress(FileNotFoundError, RuntimeError):  # the latter: a user without a home
        return read_model(default_path())
    return BUILT_IN


def _model(content: Any) -> MachineModel:
    found = _entry(content, "format"), _entry(content, "version")
    if found != (_FORMAT, _VERSION):
        msg = f"its format and version are {found!r:.80}, not {(_FORMAT, _VERSION)}"
        raise ValueError(msg)
    library, rates = _entry(content, "library"), _entry(content, "rates")
    if not isinstance(library, str) or not library.isidentifier():
        msg = f"library is {library!r:.40}, not a name"
        raise ValueError(msg)
    for dtype in ("float32", "float64"):
        _entry(rates, dtype)
    if unknown := set(rates) - set(ITEMSIZES):
        msg = f"it has rates of {min(unknown)!r:.40}, which is no dtype of cores"
        raise ValueError(msg)
    return MachineModel(
        library=library,
        rates={dtype: _numbers(table, f"rates of {dtype}", RATE_TABLE_SHAPE) for dtype, table in rates.items()},
        streaming=_numbers(_entry(content, "streaming"), "streaming", (len(TRANSFERS),)),
        copying=_numbers(_entry(content, "copying"), "copying", (len(TRANSFERS),)),
        inference=_overhead(_entry(content, "inference"), "inference"),
        training=_overhead(_entry(content, "training"), "training"),
    )


def _entry(content: Any, name: str) -> Any:
    if not isinstance(content, dict) or name not in content:
        msg = f"it has no entry {name!r}"
        raise ValueError(msg)
    return content[name]


def _overhead(content: Any, name: str) -> Overhead:
    return Overhead(*(_numbers(_entry(content, part), f"{name} {part}", ()) for part in ("call", "kernel")))


def _numbers(content: Any, name: str, shape: Sequence[int]) -> Any:
    """Return nested lists of this *shape* as tuples of positive floats."""
    if not shape:
        if type(content) not in (int, float) or not 0 < content < 1e30:
            msg = f"{name} has {content!r:.40} where a positive number must be"
            raise ValueError(msg)
        return float(content)
    if not isinstance(content, list) or len(content) != shape[0]:
        msg = f"{name} is no table of {' x '.join(map(str, shape))} numbers"
        raise ValueError(msg)
    return tuple(_numbers(part, name, shape[1:]) for part in content)

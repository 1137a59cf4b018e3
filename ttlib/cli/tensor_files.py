"""Arrays in .npy files and checkpoints: what is in there, by the header alone, and one of them, mapped not read."""

from __future__ import annotations

import math
import tokenize
import warnings
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ttlib._manifest import FORMAT
from ttlib._types import Shape
from ttlib.checkpoint.reader import open_whole
from ttlib.cli.application import CommandError

_MOST_NAMES_SHOWN = 8
# What numpy raises for a header that is none, besides OSError.
_NO_NPY = (ValueError, TypeError, SyntaxError, tokenize.TokenError, OverflowError)


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of a file; a .npy file gives its one array no name."""

    name: str | None
    dtype: str  # in the words of the file: float32 in .npy, F32 in .safetensors
    shape: Shape

    @property
    def parameters(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)


def list_tensors(path: Path) -> list[Entry]:
    """Return what is in a file, without reading any array.

    Raises CommandError or TTFileError where there is no file, or none that can be read.
    """
    if is_npy(path):
        array = _map_npy(path)
        return [Entry(None, array.dtype.name, array.shape)]
    return [Entry(entry.name, entry.dtype, entry.shape) for entry in open_whole(path).entries.values()]


def read_tensor(path: Path, name: str | None) -> np.ndarray[Any, Any]:
    """Return the array *name* of a checkpoint, or the one of a .npy file, which takes no name.

    bfloat16 and quantised numbers come as float32.  Raises CommandError or TTFileError where it is not there, has a
    dtype that cannot be read, or the file cannot be.
    """
    if is_npy(path):
        if name is not None:
            msg = f"{str(path)!r} is a .npy file, whose one array has no name, got --tensor {name!r}; leave it out"
            raise CommandError(msg)
        return _map_npy(path)
    opened = open_whole(path)
    return opened.array(_choose(path, list(opened.entries), name))


def holds_train(path: Path) -> bool:
    """Tell whether a file was written by `ttlib.save`."""
    if is_npy(path):
        return False
    return path.is_file() and FORMAT in open_whole(path).metadata()


def is_npy(path: Path) -> bool:
    """Tell a .npy file, by its first bytes or its name, from a checkpoint.

    Raises CommandError where there is nothing, or no file and no folder.
    """
    if path.is_dir():
        return False
    if not path.is_file():
        what = "is a pipe or device" if path.exists() else "does not exist"
        msg = f"{str(path)!r} {what}; give a .npy, .safetensors or .gguf file, or the folder of a checkpoint"
        raise CommandError(msg)
    with path.open("rb") as file:
        magic = file.read(len(np.lib.format.MAGIC_PREFIX))
    return magic == np.lib.format.MAGIC_PREFIX or path.suffix == ".npy"


def _map_npy(path: Path) -> np.ndarray[Any, Any]:
    # Mapped: a header that claims more than the file holds is refused before any memory is taken, and so are Python
    # objects, which numpy would have to unpickle.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy guesses at headers that Python 2 wrote, and says so
            mapped = np.lib.format.open_memmap(path, mode="r")
    except (*_NO_NPY, Warning) as error:
        fact = str(error).rstrip(".")
        msg = f"cannot read {str(path)!r} as .npy: {fact}; write it again with numpy.save(…, allow_pickle=False)"
        raise CommandError(msg) from error
    return np.asarray(mapped)


def _choose(path: Path, names: list[str], name: str | None) -> str:
    if name in names:
        return name
    if name is None and len(names) == 1:
        return names[0]
    near = names if name is None else get_close_matches(name, names, n=_MOST_NAMES_SHOWN, cutoff=0.5) or names
    shown = ", ".join(map(repr, near[:_MOST_NAMES_SHOWN])) or "none"
    rest = f" and {len(names) - _MOST_NAMES_SHOWN} more" if near is names and len(names) > _MOST_NAMES_SHOWN else ""
    if name is None:
        msg = f"{str(path)!r} holds {len(names)} tensors; choose one by --tensor: {shown}{rest}"
    else:
        msg = f"{str(path)!r} holds no tensor {name!r}; choose one of its {len(names)} by --tensor: {shown}{rest}"
    raise CommandError(msg)

"""The header of a safetensors file: every statement is checked before anybody acts on it.  No array enters here.

    8 bytes | header, JSON                                                            | data
    length  | "__metadata__": {text: text}, name: {dtype, shape, data_offsets}, …     | the tensors without gaps

safetensors refuses a file that is too short as a whole; here the tensors that are wholly there stay usable.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import math
import os
import reprlib
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ttlib._json import Json, parse_object
from ttlib.checkpoint.entries import DTYPES, FileHeader, TensorEntry, cut_off
from ttlib.errors import TTFileError

METADATA = "__metadata__"
LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000  # safetensors refuses a longer one

# numpy counts the bytes of an array in 63 bits and its axes up to 64; sides of length zero do not count in the former.
_MOST_BITS = 1 << 66
_MOST_AXES = 64

_DAMAGED = "the file is damaged, cut off or no safetensors file: download or copy it again"


def read_header(path: Path, /) -> FileHeader:
    """Return what a safetensors file says of itself; takes memory for its header, whatever that claims.

    Tensors that reach beyond the end of the file become faults.

    Raises:
        FileNotFoundError: there is no such file.
        TTFileError: the file cannot be read, or its header contradicts itself.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # asked before opening: a pipe would wait for a writer
            refuse(path, "it is a folder, a pipe or a device", "give the path of a file")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            head = _read_json_bytes(file, path, status.st_size)
    except FileNotFoundError:
        raise
    except OSError as error:
        refuse(path, str(error), "make it readable")
    header = parse_json(head, path)
    metadata = _checked_metadata(header.pop(METADATA, {}), path)
    base = LENGTH_BYTES + len(head)
    entries = [_checked_entry(name, info, path, base) for name, info in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    _check_seamless(entries, path, base, status.st_size)
    return FileHeader(
        file=path,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        digest=hashlib.sha256(head).hexdigest(),
        entries=tuple(entry for entry in entries if entry.end <= status.st_size),
        metadata=metadata,
        faults=tuple(cut_off(entry, status.st_size) for entry in entries if entry.end > status.st_size),
    )


def parse_json(text: bytes, path: Path) -> Json:
    """Return the JSON object that a file holds; names that occur twice, NaN and deep nesting are refused."""
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        refuse(path, f"the JSON is no text ({error})")
    return parse_object(decoded, f"the JSON in {path.name}", _DAMAGED)


def refuse(path: Path, fact: str, remedy: str = _DAMAGED) -> NoReturn:
    """Raise TTFileError: the file, the fact, the remedy."""
    msg = f"{path.name}: {fact}; {remedy}"
    raise TTFileError(msg)


def _read_json_bytes(file: BinaryIO, path: Path, size: int) -> bytes:
    prefix = file.read(LENGTH_BYTES)
    length = int.from_bytes(prefix, "little")
    most = min(LARGEST_HEADER, size - LENGTH_BYTES)
    if len(prefix) < LENGTH_BYTES or length > most:
        refuse(path, f"the header claims {length} bytes, at most {max(most, 0)} are possible in {size}")
    head = file.read(length)
    if len(head) < length or not head.startswith(b"{"):
        refuse(path, f"the header begins with {head[:8]!r} instead of '{{'")
    return head


def _checked_metadata(found: object, path: Path) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        refuse(path, f"{METADATA} is {reprlib.repr(found)} instead of texts by name")
    return found


def _checked_entry(name: str, info: object, path: Path, base: int) -> TensorEntry:
    """Return the entry of one tensor whose dtype, shape and offsets agree; *base* is where the data begins."""
    fields: Any = info if isinstance(info, dict) else {}
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    sound = isinstance(dtype, str) and _are_counts(shape) and _are_counts(offsets) and len(offsets) == 2
    if not sound or not offsets[0] <= offsets[1]:
        refuse(path, f"tensor {name!r} is {reprlib.repr(info)} instead of a dtype, a shape and two offsets")
    known = DTYPES.get(dtype)
    bits = known.bits if known else 1
    if len(shape) > _MOST_AXES or math.prod(side or 1 for side in shape) * bits >= _MOST_BITS:
        refuse(path, f"tensor {name!r} has the impossible shape {reprlib.repr(shape)}")
    nbytes = offsets[1] - offsets[0]
    if known and math.prod(shape) * bits != 8 * nbytes:
        refuse(path, f"tensor {name!r} of shape {tuple(shape)} and dtype {dtype} has {nbytes} bytes")
    return TensorEntry(name, dtype, tuple(shape), path, base + offsets[0], base + offsets[1])


def _are_counts(found: object) -> bool:
    # By type, not by isinstance: true is an int in Python, but no length.
    return isinstance(found, list) and all(type(n) is int and n >= 0 for n in found)


def _check_seamless(entries: list[TensorEntry], path: Path, base: int, size: int) -> None:
    """Refuse tensors that overlap or leave a gap, for then one of the statements is false, and bytes of nobody."""
    if entries and entries[0].begin != base:
        refuse(path, f"tensor {entries[0].name!r} begins at byte {entries[0].begin} instead of {base}")
    for left, right in pairwise(entries):
        if right.begin != left.end:
            what = "overlap" if right.begin < left.end else "leave a gap"
            fact = f"tensors {left.name!r} and {right.name!r} {what}: one ends at byte {left.end}, one begins at "
            refuse(path, f"{fact}{right.begin}")
    end = entries[-1].end if entries else base
    if end < size:
        refuse(path, f"{size - end} bytes follow the last tensor")

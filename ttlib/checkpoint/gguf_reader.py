"""The header of a gguf file, and the numbers of ggml's quantised types through the package `gguf`.

    magic, version, number of tensors, of pairs | key: value, … | name, shape, type, offset; … | padding | data

The package's own reader makes an array of every word of a vocabulary (20 s for the file of a small model where this
one takes tens of milliseconds) and refuses a file that is too short as a whole; so the package is asked for the types
and their numbers only, and the header is walked through here.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import reprlib
import stat
import struct
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from ttlib.checkpoint.entries import FileHeader, TensorEntry, cut_off
from ttlib.errors import TTFileError

_VERSIONS = (2, 3)
_MOST_AXES = 4
_MOST_BITS = 1 << 66
_DEEPEST_ARRAY = 4
_LARGEST_HEADER = 100_000_000  # ten times that of the largest vocabularies; bounds the work that walking takes
_LONGEST_TEXT = 1 << 16  # longer values, such as templates for chats, are not kept
_STRING, _ARRAY = 8, 9
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32 = 4


def read_gguf_header(path: Path, /) -> FileHeader:
    """Return what a gguf file says of its tensors; shapes in numpy's order, the row last.

    Tensors that reach beyond the end of the file become faults; types that the package does not know are named
    "ggml type …" and end where the next tensor begins (the last one in the file: where it begins).

    Raises:
        FileNotFoundError: there is no such file.
        TTFileError: the file cannot be read, or its header contradicts itself.
        ImportError: the package gguf is missing.
    """
    sizes = _type_sizes()
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # asked before opening: a pipe would wait for a writer
            _refuse(path, "it is a folder, a pipe or a device")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if status.st_size else b"")
            metadata, entries, length = _walk(_Cursor(data[:_LARGEST_HEADER]), path, sizes)
            digest = hashlib.sha256(data[:length]).hexdigest()
    except FileNotFoundError:
        raise
    except OSError as error:
        _refuse(path, str(error))
    # A number or text that would reach beyond the end; lengths may be as large as 2^64.
    except (struct.error, OverflowError, UnicodeError) as error:
        _refuse(path, f"the header ends early or is not valid ({error})")
    return FileHeader(
        file=path,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        digest=digest,
        entries=tuple(entry for entry in entries if entry.end <= status.st_size),
        metadata=metadata,
        faults=tuple(cut_off(entry, status.st_size) for entry in entries if entry.end > status.st_size),
    )


def dequantise(packed: Any, dtype: str) -> Any:
    """Return float32 numbers (rows, columns) of quantised rows (rows, bytes) of the ggml type *dtype*."""
    gguf = _import_gguf()
    try:
        return gguf.dequantize(packed, gguf.GGMLQuantizationType[dtype])
    except (KeyError, NotImplementedError) as error:
        msg = f"the installed package gguf cannot read numbers of type {dtype}: pip install --upgrade gguf"
        raise TTFileError(msg) from error


def _import_gguf() -> Any:
    try:
        import gguf  # noqa: PLC0415  # optional, and only for files of this kind
    except ImportError as error:
        msg = "gguf files need the package gguf: pip install gguf"
        raise ImportError(msg) from error
    return gguf


def _type_sizes() -> dict[int, tuple[str, int, int]]:
    """Return name, numbers per block and bytes per block of each ggml type."""
    sizes = _import_gguf().GGML_QUANT_SIZES
    return {int(kind): (kind.name, numbers, nbytes) for kind, (numbers, nbytes) in sizes.items()}


@dataclass
class _Cursor:
    """Reads one number or text after the other; beyond the end that is a struct.error."""

    data: memoryview
    offset: int = 0

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from("<" + code, self.data, self.offset)
        self.offset += struct.calcsize("<" + code)
        return int(value)

    def text(self) -> str:
        return bytes(self.skip(self.number("Q"))).decode()

    def skip(self, count: int) -> memoryview:
        begin, self.offset = self.offset, self.offset + count
        if self.offset > len(self.data):
            msg = f"byte {self.offset} of {len(self.data)}"
            raise struct.error(msg)
        return self.data[begin : self.offset]


def _walk(
    cursor: _Cursor, path: Path, sizes: dict[int, tuple[str, int, int]]
) -> tuple[dict[str, str], list[TensorEntry], int]:
    """Return the metadata that are texts, the entries in the order of their bytes, and where the data begins."""
    magic, version = bytes(cursor.skip(4)), cursor.number("I")
    if magic != b"GGUF" or version not in _VERSIONS:
        _refuse(path, f"it begins with {magic!r} and version {version} instead of b'GGUF' and {_VERSIONS}")
    tensors, pairs = cursor.number("Q"), cursor.number("Q")
    metadata, alignment = {}, 32
    for _ in range(pairs):
        key, kind = cursor.text(), cursor.number("I")
        if key == "general.alignment" and kind == _UINT32:
            alignment = cursor.number("I")
        elif kind == _STRING and len(value := cursor.skip(cursor.number("Q"))) <= _LONGEST_TEXT:
            metadata[key] = bytes(value).decode(errors="replace")
        elif kind != _STRING:
            _skip_value(cursor, kind, path)
    if alignment < 1 or alignment & (alignment - 1):
        _refuse(path, f"general.alignment is {alignment} instead of a power of two")
    entries = [_entry(cursor, path, sizes) for _ in range(tensors)]
    base = -(-cursor.offset // alignment) * alignment
    return metadata, _placed(entries, path, base), base


def _skip_value(cursor: _Cursor, kind: int, path: Path, depth: int = 0) -> None:
    if kind in _SCALAR_BYTES:
        cursor.skip(_SCALAR_BYTES[kind])
    elif kind == _ARRAY and depth < _DEEPEST_ARRAY:
        inner, count = cursor.number("I"), cursor.number("Q")
        if inner in _SCALAR_BYTES:
            cursor.skip(count * _SCALAR_BYTES[inner])
        elif inner == _STRING:
            _skip_texts(cursor, count)
        else:
            for _ in range(count):
                _skip_value(cursor, inner, path, depth + 1)
    else:
        _refuse(path, f"a value has the unknown type {kind} at depth {depth}")


def _skip_texts(cursor: _Cursor, count: int) -> None:
    # A vocabulary has hundreds of thousands, and each start is known only from the length of the text before.
    read, data, offset = struct.Struct("<Q").unpack_from, cursor.data, cursor.offset
    for _ in range(count):
        offset += 8 + read(data, offset)[0]
    cursor.skip(offset - cursor.offset)


def _entry(cursor: _Cursor, path: Path, sizes: dict[int, tuple[str, int, int]]) -> TensorEntry:
    """Return one entry, its bytes counted from where the data begins; of an unknown type without its end."""
    name, axes = cursor.text(), cursor.number("I")
    if axes > _MOST_AXES:
        _refuse(path, f"tensor {name!r} has {axes} axes, at most {_MOST_AXES} are possible")
    shape = tuple(reversed([cursor.number("Q") for _ in range(axes)]))  # a file names the row first
    kind, begin = cursor.number("I"), cursor.number("Q")
    dtype, numbers, nbytes = sizes.get(kind, (f"ggml type {kind}", 1, 0))
    # Quantised numbers come in blocks along a row.
    if math.prod(side or 1 for side in shape) * 64 >= _MOST_BITS or (shape[-1] if shape else 1) % numbers:
        _refuse(path, f"tensor {name!r} of type {dtype} has the impossible shape {reprlib.repr(shape)}")
    return TensorEntry(name, dtype, shape, path, begin, begin + math.prod(shape) // numbers * nbytes)


def _placed(entries: list[TensorEntry], path: Path, base: int) -> list[TensorEntry]:
    """Return the entries in the order of their bytes, these counted from the start of the file."""
    if len({entry.name for entry in entries}) < len(entries):
        names = sorted(entry.name for entry in entries)
        twice = next(left for left, right in pairwise(names) if left == right)
        _refuse(path, f"the name {twice!r} occurs twice")
    entries = sorted(entries, key=lambda entry: (entry.begin, entry.end))
    placed = []
    for entry, following in zip(entries, [*entries[1:], None], strict=True):
        limit = base + (following.begin if following else entry.end)
        end = limit if entry.dtype.startswith("ggml type") else base + entry.end
        if end > limit:
            _refuse(path, f"tensor {entry.name!r} ends at byte {end}, but the next one begins at {limit}")
        placed.append(replace(entry, begin=base + entry.begin, end=end))
    return placed


def _refuse(path: Path, fact: str) -> NoReturn:
    msg = f"{path.name}: {fact}; the file is damaged, cut off or no gguf file of this decade: download it again"
    raise TTFileError(msg)

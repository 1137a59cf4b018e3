"""safetensors files larger than memory: the header first, then each tensor at its place, the whole file or none."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ttlib._files import replacing
from ttlib._types import Shape
from ttlib.checkpoint.entries import DTYPES
from ttlib.checkpoint.header import LARGEST_HEADER, LENGTH_BYTES, METADATA
from ttlib.checkpoint.numbers import NDArray, narrow
from ttlib.errors import BackendError, ShapeError, TTFileError

# Bytes as they lie in a file, for dtypes that numpy does not have.
RawBytes: TypeAlias = bytes | memoryview

_ALIGNMENT = 8  # safetensors lets the data begin at a multiple of this
_PIECE_BYTES = 1 << 24  # what is converted on the way to the file is so in pieces of this size
_ORDER = {dtype: k for k, dtype in enumerate(DTYPES)}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor will be: known before its numbers are.

    >>> TensorSpec("lm_head.weight", "BF16", (49152, 576)).nbytes
    56623104
    """

    name: str
    dtype: str  # as safetensors calls it: "F32", "BF16", …
    shape: Shape

    @property
    def nbytes(self) -> int:
        """The size in the file, in bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].bits // 8


def write_safetensors(
    path: str | os.PathLike[str],
    specs: Sequence[TensorSpec],
    tensors: Iterable[tuple[str, NDArray | RawBytes]],
    /,
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file tensor by tensor; it stays the old one until the new one is complete.

    >>> import tempfile, numpy as np, safetensors.numpy
    >>> specs = [TensorSpec("a", "F32", (2, 3)), TensorSpec("b", "BF16", (4,))]
    >>> tensors = (item for item in [("b", np.ones(4, np.float32)), ("a", np.eye(2, 3, dtype=np.float32))])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_safetensors(f"{folder}/model.safetensors", specs, tensors)
    ...     with safetensors.safe_open(f"{folder}/model.safetensors", "np") as file:
    ...         file.keys(), file.get_tensor("a")[0]
    (['a', 'b'], array([1., 0., 0.], dtype=float32))

    The file is byte for byte what safetensors itself writes for the same tensors.  The tensors may come from a
    generator and in any order; one is in memory at a time, and what it raises leaves the old file.

    Args:
        path: the file; folders on the way to it are made.
        specs: name, dtype and shape of every tensor.
        tensors: each name once, with an array of the dtype and shape of its spec, or with its bytes in the file's
            order (little-endian, C order).  float32 numbers for a BF16 tensor are rounded to nearest, ties to even.
        metadata: texts to store in the header.

    Raises:
        BackendError: a dtype that safetensors does not have, no array, or one of another dtype than its spec.
        ShapeError: an impossible shape, or a tensor of another shape or number of bytes than its spec.
        TTFileError: a name twice or missing, or the file cannot be written; what was there is unchanged.
    """
    path, (head, offsets) = Path(path), _layout(specs, metadata or {})
    if "\0" in str(path):
        msg = f"cannot write {os.fspath(path)!r}: no file can have this name; choose another path"
        raise TTFileError(msg)
    waiting = {spec.name: spec for spec in specs}
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(head)
            for name, tensor in tensors:
                if name not in waiting:
                    what = "came before" if name in offsets else "has no spec"
                    msg = f"tensor {name!r} {what}: each name of the specs is written once"
                    raise TTFileError(msg)
                file.seek(len(head) + offsets[name])
                file.writelines(_pieces(waiting.pop(name), tensor))
                del tensor  # or it would stay while the next one is made
            if waiting:
                msg = f"{len(waiting)} of {len(specs)} tensors never came, such as {next(iter(waiting))!r}: give all"
                raise TTFileError(msg)
    except OSError as error:
        msg = f"cannot write {os.fspath(path)!r}: {error}; the old file is unchanged: make room or choose another path"
        raise TTFileError(msg) from error


def _layout(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """Return the bytes before the data and where in the data each tensor begins."""
    header: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    offsets, end = {}, 0
    for spec in specs:
        _check_spec(spec)
    # The widest first: each tensor then begins at a multiple of its width, which a reader that maps the file needs.
    for spec in sorted(specs, key=lambda spec: (-_ORDER[spec.dtype], spec.name)):
        if spec.name in offsets or spec.name == METADATA:
            msg = f"the tensor name {spec.name!r} is taken: give each tensor another one"
            raise TTFileError(msg)
        offsets[spec.name], end = end, end + spec.nbytes
        data_offsets = [offsets[spec.name], end]
        header[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": data_offsets}
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, UnicodeError) as error:
        msg = f"the names and metadata cannot be written as JSON ({error}): use valid text"
        raise TTFileError(msg) from error
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > LARGEST_HEADER:
        msg = f"the header has {len(text)} bytes, safetensors reads {LARGEST_HEADER} at most: write several files"
        raise TTFileError(msg)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, offsets


def _check_spec(spec: TensorSpec) -> None:
    if spec.dtype not in DTYPES:
        msg = f"tensor {spec.name!r} has the dtype {spec.dtype!r}, safetensors has {', '.join(DTYPES)}"
        raise BackendError(msg)
    if not all(type(side) is int and side >= 0 for side in spec.shape):
        msg = f"tensor {spec.name!r} has the shape {spec.shape!r}: the sides must be integers >= 0"
        raise ShapeError(msg)
    if math.prod(spec.shape) * DTYPES[spec.dtype].bits % 8:
        msg = f"tensor {spec.name!r} of shape {spec.shape} and dtype {spec.dtype} does not fill whole bytes: pad it"
        raise ShapeError(msg)


def _pieces(spec: TensorSpec, tensor: NDArray | RawBytes) -> Iterator[RawBytes]:
    """Return the bytes of a tensor in order, piece by piece, once it is what its spec says."""
    if isinstance(tensor, (bytes, memoryview)):
        view = memoryview(tensor)
        if view.nbytes != spec.nbytes:
            msg = f"tensor {spec.name!r} came with {view.nbytes} bytes, its spec has {spec.nbytes}: give these"
            raise ShapeError(msg)
        return iter([view if view.c_contiguous else view.tobytes()])
    if not isinstance(tensor, np.ndarray):
        msg = f"tensor {spec.name!r} came as {type(tensor).__name__}: give a numpy array, or bytes or a memoryview"
        raise BackendError(msg)
    words = DTYPES[spec.dtype].words
    expected = "float32" if spec.dtype == "BF16" else words and np.dtype(words).name
    if tensor.dtype.name != expected:
        wanted = f"{expected} numbers" if expected else "its bytes, for numpy has no such dtype"
        msg = f"tensor {spec.name!r} is {tensor.dtype}, its spec {spec.dtype}: give {wanted}"
        raise BackendError(msg)
    if tensor.shape != spec.shape:
        msg = f"tensor {spec.name!r} has the shape {tensor.shape}, its spec {spec.shape}: reshape it"
        raise ShapeError(msg)
    return _converted(tensor, spec.dtype)


def _converted(tensor: NDArray, dtype: str) -> Iterator[memoryview]:
    rows = tensor if tensor.ndim else tensor.reshape(1)
    step = max(_PIECE_BYTES // max(rows[:1].nbytes, 1), 1)
    for first in range(0, len(rows), step):
        piece = rows[first : first + step]
        words = narrow(piece) if dtype == "BF16" else np.ascontiguousarray(piece, dtype=DTYPES[dtype].words)
        yield words.reshape(-1).view("u1").data

"""Tensor-train files: written whole or not at all, read back bit for bit or refused.

A file is a safetensors container, so every language can read it and nothing in it can run.  The container is
guarded by safetensors, its content is not: a flipped bit loads as another number.  Hence the manifest (see
`ttlib._manifest`), which says what the train is and the SHA-256 of every core.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ttlib import _arrays, _transfer
from ttlib._files import replacing
from ttlib._json import DAMAGED, check, refuse
from ttlib._manifest import FORMAT, LARGEST_HEADER, LAYOUTS, LENGTH_BYTES, Layout, Manifest, read_manifest
from ttlib._types import Array
from ttlib.errors import BackendError, NonFiniteError, TTFileError
from ttlib.tensor_train import TensorTrain
from ttlib.tt_matrix import TTMatrix

_KINDS: dict[str, type[TensorTrain | TTMatrix]] = {"tensor_train": TensorTrain, "tt_matrix": TTMatrix}

# The numbers of a core as they lie in the file: real and imaginary parts on an axis of their own, bfloat16 as bits.
_Words: TypeAlias = np.ndarray[Any, Any]


def save(path: str | os.PathLike[str], tt: TensorTrain | TTMatrix, /) -> None:
    """Save a tensor train or a TT matrix to a file, which stays the old one until the new one is complete.

    >>> import tempfile, ttlib
    >>> tt = ttlib.random([8, 8, 12], ranks=5, seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ttlib.save(f"{folder}/tt.safetensors", tt)
    ...     loaded = ttlib.load(f"{folder}/tt.safetensors")
    >>> all((a == b).all() for a, b in zip(tt.cores, loaded.cores))
    True

    The same train gives the same bytes, from whichever library and device; these two are not stored.  Folders on
    the way to the file are made.

    Args:
        path: the file; `.safetensors` is the usual suffix, none is added.
        tt: a train of cores (r[k-1], n[k], r[k]) or a matrix of cores (r[k-1], m[k], n[k], r[k]), of any dtype.

    Raises:
        BackendError: something else than a train.
        NonFiniteError: NaN or infinity in a core; nothing is written.
        TTFileError: the file cannot be written; what was there is unchanged.
        ImportError: the package safetensors is missing.
    """
    safetensors = _import_safetensors()
    kind = next((kind for kind, cls in _KINDS.items() if isinstance(tt, cls)), None)
    if kind is None:
        msg = f"save(path, tt) takes a TensorTrain or TTMatrix, got {type(tt).__name__}"
        raise BackendError(msg)
    dtype = _arrays.dtype_name(tt.dtype)
    cores = [_to_words(core, LAYOUTS[dtype]) for core in tt.cores]
    for k, words in enumerate(cores):
        if count := _count_non_finite(words, LAYOUTS[dtype]):
            msg = f"core {k} has {count} non-finite value(s) (NaN or infinity): clean the cores first"
            raise NonFiniteError(msg)
    manifest = Manifest(
        kind=kind,
        dtype=dtype,
        shapes=tuple(tuple(int(n) for n in core.shape[1:-1]) for core in tt.cores),
        ranks=tuple(int(r) for r in tt.ranks),
        sha256=tuple(hashlib.sha256(words.data).hexdigest() for words in cores),
    )
    _write(Path(path), _serialize(safetensors, manifest, cores))


def load(path: str | os.PathLike[str], /, *, like: Array | None = None) -> TensorTrain | TTMatrix:
    """Load what `save` wrote, bit for bit, or refuse the file.

    >>> import tempfile, torch, ttlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ttlib.save(f"{folder}/tt.safetensors", ttlib.random([8, 8, 12], ranks=5, seed=0))
    ...     ttlib.load(f"{folder}/tt.safetensors", like=torch.zeros(()))
    TensorTrain(shape=(8, 8, 12), ranks=(1, 5, 5, 1), parameters=300, compression=2.6x, torch float64)

    A file from a stranger cannot run code and cannot claim memory: its statements are checked against each other
    and against its size first, and loading takes about twice that size.

    Args:
        path: the file.
        like: an array whose library and device the cores take; their dtype is the stored one.  Default: numpy,
            which has no bfloat16.

    Raises:
        FileNotFoundError: there is no such file.
        TTFileError: the file cannot be read, is another kind of file, comes from a newer version or is damaged.
        BackendError: `like` is no array, or of a library without the stored dtype.
        ImportError: the package safetensors is missing.
    """
    like = np.empty(0) if like is None else like
    _arrays.namespace(like)  # what is no array is refused before the file is read
    manifest, cores = load_words(path)
    return _KINDS[manifest.kind](tuple(_to_core(words, manifest.dtype, like) for words in cores))


def load_words(path: str | os.PathLike[str], /) -> tuple[Manifest, list[_Words]]:
    """Load what a file says of itself and the words of its cores, checked as `load` does and with the same errors.

    For callers that want bfloat16 without a library that has it.
    """
    safetensors = _import_safetensors()
    path = Path(path)
    try:
        manifest, content = _read(path)
        return manifest, _checked_cores(safetensors, manifest, content)
    except TTFileError as error:
        msg = f"cannot load {os.fspath(path)!r}: {error}"
        raise TTFileError(msg) from error.__cause__


def _import_safetensors() -> Any:
    try:
        import safetensors  # noqa: PLC0415  # optional, and not needed for mathematics
    except ImportError as error:
        msg = "ttlib.save and ttlib.load need the package safetensors: pip install safetensors"
        raise ImportError(msg) from error
    return safetensors


def _serialize(safetensors: Any, manifest: Manifest, cores: list[_Words]) -> bytes:
    specs = {}
    for name, words in zip(manifest.entries(), cores, strict=True):
        spec = {"dtype": manifest.layout.name, "shape": words.shape}
        if hasattr(safetensors, "TensorSpec"):  # from 0.8 on it takes the address of the bytes, before that the bytes
            specs[name] = safetensors.TensorSpec(**spec, data_ptr=words.ctypes.data, data_len=words.nbytes)
        else:
            specs[name] = {**spec, "data": words.tobytes()}
    return bytes(safetensors.serialize(specs, {FORMAT: manifest.to_json()}))


def _write(path: Path, content: bytes) -> None:
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    if length > LARGEST_HEADER:
        msg = (
            f"cannot save {os.fspath(path)!r}: so many cores need a header of {length} bytes, {LARGEST_HEADER} at most "
            "can be loaded; merge neighbouring cores or save the train in pieces"
        )
        raise TTFileError(msg)
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        msg = f"cannot save {os.fspath(path)!r}: {error}; what was there is unchanged: make room or choose another path"
        raise TTFileError(msg) from error


def _read(path: Path) -> tuple[Manifest, bytes]:
    """Return the manifest and the whole content of a file in which header, manifest and size agree."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # asked before opening: a pipe would wait for a writer
            refuse("the path", "a folder, a pipe or a device", "a file", "give the path of a file of ttlib.save")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            manifest, head = read_manifest(file, size=size)
            return manifest, head + file.read(size - len(head))
    except (FileNotFoundError, TTFileError):
        raise
    except (OSError, ValueError) as error:
        msg = f"{error}; give the path of a readable file of ttlib.save"
        raise TTFileError(msg) from error


def _checked_cores(safetensors: Any, manifest: Manifest, content: bytes) -> list[_Words]:
    try:
        tensors = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError as error:
        msg = f"safetensors refuses it ({error}); {DAMAGED}"
        raise TTFileError(msg) from error
    cores = []
    for k, (name, entry) in enumerate(manifest.entries().items()):
        data = tensors[name]["data"]
        check(f"the SHA-256 of core {k}", hashlib.sha256(data).hexdigest(), manifest.sha256[k])
        words = np.frombuffer(data, dtype=manifest.layout.words).reshape(entry["shape"])
        if count := _count_non_finite(words, manifest.layout):
            refuse(f"the number of NaN and infinite values in core {k}", count, "0", "save a finite train instead")
        cores.append(words)
    return cores


def _count_non_finite(words: _Words, layout: Layout) -> int:
    # In bfloat16 these are the numbers whose exponent is all ones.
    bad = (words & 0x7F80) == 0x7F80 if layout.code == "BF16" else ~np.isfinite(words)
    return int(np.count_nonzero(bad.any(axis=-1) if layout.parts else bad))


def _to_words(core: Array, layout: Layout) -> _Words:
    """Return the numbers of a core in host memory, C order and little-endian, without rounding any."""
    host = _transfer.to_host_bits(core)
    if host.dtype.str.startswith(">"):
        host = host.astype(host.dtype.newbyteorder("<"))
    return host.view(layout.words).reshape(*host.shape, *layout.parts)


def _to_core(words: _Words, dtype: str, like: Array) -> Array:
    """Return the inverse of `_to_words`, in the library and on the device of *like*."""
    words = words.astype(words.dtype.newbyteorder("="), copy=False)
    bits = words.view(np.int16 if dtype == "bfloat16" else dtype)
    bits = bits[..., 0] if LAYOUTS[dtype].parts else bits  # a pair of real numbers is one complex number
    return _transfer.from_host_bits(bits, dtype=dtype, like=like)

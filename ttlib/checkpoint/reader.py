"""Checkpoints of any size: only the headers are read, the numbers stay in the file until somebody asks for them."""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ttlib.checkpoint.entries import Fault, FileHeader, TensorEntry
from ttlib.checkpoint.gguf_reader import read_gguf_header
from ttlib.checkpoint.header import read_header
from ttlib.checkpoint.layout import CheckpointFiles, find_files
from ttlib.checkpoint.numbers import LazyRows, NDArray, read_bytes, read_rows, read_words
from ttlib.errors import ShapeError, TTFileError


def open_checkpoint(path: str | os.PathLike[str], /, *, strict: bool = False) -> Checkpoint:
    """Open a checkpoint: a .safetensors or .gguf file, shards with their index, or a folder from a model hub.

    >>> import tempfile, numpy as np, safetensors.numpy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     safetensors.numpy.save_file({"w": np.eye(3, 4)}, f"{folder}/model.safetensors")
    ...     checkpoint = open_checkpoint(folder)
    ...     checkpoint.entries["w"].shape, checkpoint.array("w")[0]
    ((3, 4), array([1., 0., 0., 0.]))

    A checkpoint from a stranger cannot run code and cannot claim memory: what its headers say is checked against
    each other and against the sizes of the files before any number is read.  Whatever is whole is usable:
    a missing or cut-off shard, a wrong index or an unknown dtype are `faults`, and the other tensors are there.

    Args:
        path: the file, the index or the folder.
        strict: make the first fault an error.

    Raises:
        FileNotFoundError: there is nothing at the path.
        TTFileError: it is no checkpoint, or none of its tensors can be used; with *strict*, any fault.
        ImportError: a gguf file without the package gguf.
    """
    path = Path(path)
    files = find_files(path)
    headers, faults = _read_headers(files)
    entries, more = _merge(headers, files)
    faults += more
    if faults and (strict or not entries):
        more_faults = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
        msg = f"cannot use the checkpoint {os.fspath(path)!r}: {faults[0].message}{more_faults}"
        raise TTFileError(msg)
    if not entries:
        msg = f"the checkpoint {os.fspath(path)!r} holds no tensor: give the path of one that does"
        raise TTFileError(msg)
    return Checkpoint(
        path=path,
        entries=MappingProxyType(entries),
        faults=tuple(faults),
        fingerprint=_fingerprint(headers, files),
        _headers=MappingProxyType({header.file: header for header in headers}),
    )


def open_whole(path: str | os.PathLike[str], /) -> Checkpoint:
    """Open a checkpoint of which nothing is missing, to copy it; a dtype that cannot be read can still be copied.

    Raises:
        As `open_checkpoint`, and TTFileError for the first fault that costs a tensor.
    """
    opened = open_checkpoint(path)
    lost = [fault for fault in opened.faults if fault.kind != "unknown dtype"]
    if lost:
        msg = f"{os.fspath(path)!r} is not whole ({len(lost)} fault(s)): {lost[0].message}"
        raise TTFileError(msg)
    return opened


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Checkpoint:
    """The tensors of a checkpoint, made by `open_checkpoint`; holds what the headers say and no open file."""

    path: Path
    entries: Mapping[str, TensorEntry]  # by file, then in the order of the bytes
    faults: tuple[Fault, ...]
    fingerprint: str  # changes whenever a file is written or renamed; the headers are hashed, the numbers are not
    _headers: Mapping[Path, FileHeader] = field(repr=False)

    def __repr__(self) -> str:
        size = sum(entry.nbytes for entry in self.entries.values())
        faults = f", {len(self.faults)} fault(s)" if self.faults else ""
        return f"Checkpoint({os.fspath(self.path)!r}, {len(self.entries)} tensor(s), {size:,} bytes{faults})"

    def metadata(self) -> dict[str, str]:
        """Return what the files say of themselves; where two disagree, the first one is believed."""
        merged: dict[str, str] = {}
        for header in reversed(tuple(self._headers.values())):
            merged.update(header.metadata)
        return merged

    def array(self, name: str, /) -> NDArray:
        """Return the numbers of a tensor, read-only.

        A view of the mapped file where numpy has the dtype: nothing is copied, and pages are read when touched.
        bfloat16 and quantised numbers become float32 in memory.

        Raises:
            TTFileError: there is no such tensor, its dtype cannot be read, or the file was changed after opening.
        """
        entry = self._readable(name)
        rows = entry if entry.shape else _as_vector(entry)
        return _guarded(rows, 0, rows.shape[0]).reshape(entry.shape)

    def blocks(self, name: str, /, *, rows: int | None = None, block_bytes: int = 1 << 24) -> Iterator[NDArray]:
        """Return the row blocks (rows, n) of a matrix (m, n) from the top, float32 or float64, read-only.

        Each block is mapped anew, so that the pages of those that are done leave the process.

        >>> import tempfile, numpy as np, safetensors.numpy
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     safetensors.numpy.save_file({"w": np.ones((5, 4), np.float16)}, f"{folder}/model.safetensors")
        ...     [block.shape for block in open_checkpoint(folder).blocks("w", rows=2)]
        [(2, 4), (2, 4), (1, 4)]

        Args:
            name: of a matrix of real numbers.
            rows: of each block but the last.  Default: as many as *block_bytes* has room for, at least one.
            block_bytes: the size of a block in memory.

        Raises:
            ShapeError: the tensor has not two axes, or *rows* or *block_bytes* is below 1.
            TTFileError: as in `array`, or the numbers are no real ones.
        """
        entry = self._matrix(name)
        if block_bytes < 1 or (rows is not None and rows < 1):
            msg = f"rows={rows}, block_bytes={block_bytes}: a block has at least one row and one byte"
            raise ShapeError(msg)
        item = 8 if entry.dtype == "F64" else 4
        step = rows or max(block_bytes // max(item * entry.shape[1], 1), 1)
        return self._row_blocks(entry, step)

    def rows(self, name: str, /) -> LazyRows:
        """Return a matrix of real numbers for `ttlib.decompose`, which reads large ones in blocks of rows.

        Raises:
            ShapeError, TTFileError: as in `blocks`.
        """
        return LazyRows(self._matrix(name))

    def words(self, name: str, /) -> NDArray:
        """Return the numbers of a tensor as `array` does, but those of bfloat16 as uint16: nothing is copied.

        Raises:
            TTFileError: as in `array`.
        """
        entry = self._readable(name)
        return read_words(entry) if entry.dtype == "BF16" else self.array(name)

    def raw(self, name: str, /) -> memoryview:
        """Return the bytes of a tensor of any dtype as they lie in the file, to be copied to another one.

        Raises:
            TTFileError: there is no such tensor, or the file was changed after opening.
        """
        entry = self._entry(name)
        try:
            return read_bytes(entry).data
        except (OSError, ValueError) as error:
            raise _unreadable(entry, error) from error

    def _row_blocks(self, entry: TensorEntry, step: int) -> Iterator[NDArray]:
        for first in range(0, entry.shape[0], step):
            self._check_unchanged(entry)
            block = _guarded(entry, first, min(first + step, entry.shape[0]))
            if entry.dtype == "F16":
                block = block.astype("float32")
                block.flags.writeable = False
            yield block

    def _matrix(self, name: str) -> TensorEntry:
        entry = self._readable(name)
        if len(entry.shape) != 2:
            msg = f"tensor {name!r} has the shape {entry.shape}: row blocks need a matrix; use array() and reshape it"
            raise ShapeError(msg)
        if not entry.is_floating:
            msg = f"tensor {name!r} has the dtype {entry.dtype}: row blocks need real numbers; use array()"
            raise TTFileError(msg)
        return entry

    def _readable(self, name: str) -> TensorEntry:
        entry = self._entry(name)
        if not entry.is_readable:
            msg = f"tensor {name!r} has the dtype {entry.dtype}, which cannot be read as numbers: convert it first"
            raise TTFileError(msg)
        return entry

    def _entry(self, name: str) -> TensorEntry:
        if name not in self.entries:
            close = difflib.get_close_matches(name, self.entries, n=3) or list(self.entries)[:3]
            msg = f"there is no tensor {name!r} among {len(self.entries)} in {os.fspath(self.path)!r}: try {close}"
            raise TTFileError(msg)
        self._check_unchanged(self.entries[name])
        return self.entries[name]

    def _check_unchanged(self, entry: TensorEntry) -> None:
        """Refuse a file that is not the one whose header was read: touching a page behind its end kills a process."""
        header = self._headers[entry.file]
        try:
            status = entry.file.stat()
        except OSError as error:
            raise _unreadable(entry, error) from error
        if (status.st_size, status.st_mtime_ns) != (header.size, header.mtime_ns):
            msg = f"{os.fspath(entry.file)!r} was changed after the checkpoint was opened: open it again"
            raise TTFileError(msg)


def _as_vector(entry: TensorEntry) -> TensorEntry:
    return TensorEntry(entry.name, entry.dtype, (1,), entry.file, entry.begin, entry.end)


def _guarded(entry: TensorEntry, first: int, last: int) -> NDArray:
    try:
        return read_rows(entry, first, last)
    except (OSError, ValueError) as error:
        if isinstance(error, TTFileError):
            raise
        raise _unreadable(entry, error) from error


def _unreadable(entry: TensorEntry, error: Exception) -> TTFileError:
    return TTFileError(f"cannot read tensor {entry.name!r} of {os.fspath(entry.file)!r}: {error}; make it readable")


def _read_headers(files: CheckpointFiles) -> tuple[list[FileHeader], list[Fault]]:
    headers: list[FileHeader] = []
    faults: list[Fault] = []
    for file in files.files:
        try:
            header = read_gguf_header(file) if file.suffix.lower() == ".gguf" else read_header(file)
        except FileNotFoundError:
            message = f"the file {file.name} is missing: its tensors are skipped; download or copy it"
            faults.append(Fault("missing file", file.name, message))
        except TTFileError as error:
            faults.append(Fault("damaged file", file.name, str(error)))
        else:
            headers.append(header)
            faults += header.faults
    return headers, faults


def _merge(headers: list[FileHeader], files: CheckpointFiles) -> tuple[dict[str, TensorEntry], list[Fault]]:
    """Return one entry for each name, and a fault wherever the files and the index do not agree on it."""
    copies: dict[str, list[TensorEntry]] = {}
    for entry in (entry for header in headers for entry in header.entries):
        copies.setdefault(entry.name, []).append(entry)
    homes = files.homes
    faults: list[Fault] = []
    chosen = []
    for name, found in copies.items():
        home = homes.get(name) if homes is not None else None
        entry = next((entry for entry in found if entry.file.name == home), found[0])
        chosen.append(entry)
        where = ", ".join(entry.file.name for entry in found)
        if len(found) > 1:
            message = f"tensor {name!r} is in {where}: the one in {entry.file.name} is used, the other(s) skipped"
            faults.append(Fault("duplicate name", name, message))
        if homes is not None and home != entry.file.name:
            said = f"in {home}" if home else "in no file"
            message = f"tensor {name!r} is {said} by the index, but in {where}: it is used; write the index anew"
            faults.append(Fault("wrong index", name, message))
        if not entry.is_readable:
            message = f"tensor {name!r} has the dtype {entry.dtype}, which cannot be read as numbers: it is skipped"
            faults.append(Fault("unknown dtype", name, message))
    known = copies.keys() | {fault.subject for header in headers for fault in header.faults}
    for name, home in (homes or {}).items():
        if name not in known:
            message = f"tensor {name!r} is not in {home}, where the index has it: it is skipped; get the file again"
            faults.append(Fault("missing tensor", name, message))
    order = {header.file: k for k, header in enumerate(headers)}
    chosen.sort(key=lambda entry: (order[entry.file], entry.begin, entry.end))
    return {entry.name: entry for entry in chosen}, faults


def _fingerprint(headers: list[FileHeader], files: CheckpointFiles) -> str:
    known = {header.file: [header.size, header.mtime_ns, header.digest] for header in headers}
    statements = [files.digest, *([file.name, *known.get(file, _stamp(file))] for file in files.files)]
    return hashlib.sha256(json.dumps(statements).encode()).hexdigest()


def _stamp(file: Path) -> list[int]:
    """Return size and time of a file without a valid header; of a missing one, nothing."""
    try:
        status = file.stat()
    except OSError as error:
        return [-(error.errno or errno.EIO)]
    return [status.st_size, status.st_mtime_ns]

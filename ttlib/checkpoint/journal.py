"""A journal: what a long run has finished, a line of JSON for each, so that a run cut short goes on where it was.

    {"format": "ttlib-journal", "version": 1, "header": {what the run is about}}
    {a record}
    {a record}

A line is added with one write and never changed.  A kill can tear the last line, which then has no end: reading leaves
it out and resuming cuts it off, so what is lost is at most the record that was being written.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Any, Self

from ttlib._json import Json, check, parse_object, refuse, show
from ttlib.errors import TTFileError

try:
    import fcntl
except ImportError:  # Windows: two runs need journals of their own there
    fcntl = None  # type: ignore[assignment]

FORMAT = "ttlib-journal"
VERSION = 1
LONGEST_LINE = 64 << 20  # bytes; a journal may come from anywhere, and this bounds the memory that reading takes
_START = f'{{"format":"{FORMAT}","version":'.encode()
_BLOCK = 1 << 16
_FOREIGN = "this is no journal of ttlib, or a damaged one: give another path"
_DAMAGED = "take this line out, and what it tells of is done again"


class Journal:
    """A journal that is open for more records; no other process can open it meanwhile.

    >>> import tempfile
    >>> header = {"checkpoint": "3f2a", "settings": {"shapes": 3}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Journal.create(f"{folder}/run.jsonl", header) as journal:
    ...         journal.append({"weight": "layer.0", "error": 0.01})
    ...     with Journal.resume(f"{folder}/run.jsonl", header) as journal:  # after whatever ended the first one
    ...         journal.append({"weight": "layer.1", "error": 0.02})
    ...         [record["weight"] for record in journal.records()]
    ['layer.0', 'layer.1']

    Use it from one thread.  The lock is the operating system's, hence it ends with the process, however that ends; file
    systems without locks, and Windows, have none.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str], file: FileIO, /) -> None:
        self.path = Path(path)
        self._file = file

    @classmethod
    def create(cls, path: str | os.PathLike[str], header: Json, /) -> Self:
        """Begin a journal.

        Args:
            path: the file, which must not exist; folders on the way to it are made.
            header: all that decides the records (a fingerprint of the input, the settings), as JSON has words for it.

        Raises:
            TTFileError: the file exists or cannot be written, or JSON has no words for the header.
        """
        return cls._open(path, header, os.O_EXCL)

    @classmethod
    def resume(cls, path: str | os.PathLike[str], header: Json, /) -> Self:
        """Go on with a journal; one that does not exist is begun, for a run may be killed before its first byte.

        Raises:
            TTFileError: the journal was begun with another header (told by the first differences), another process has
                it open, it is no journal, or it cannot be written.
        """
        return cls._open(path, header, 0)

    @classmethod
    def _open(cls, path: str | os.PathLike[str], header: Json, exclusively: int) -> Self:
        line = _to_line({"format": FORMAT, "version": VERSION, "header": header}, "the header")
        journal = cls(path, _open_to_append(Path(path), exclusively))
        try:
            journal._lock()
            if journal._is_begun():
                _check_header(journal.path, json.loads(line)["header"])
                journal._cut_torn_line()
            else:
                journal._file.truncate(0)
                journal._write(line, sync=True)
                _sync_folder(journal.path)
        except BaseException:
            journal.close()
            raise
        return journal

    def append(self, record: Json, /, *, sync: bool = True) -> None:
        """Add a record with one write: it survives the end of this process, however that ends.

        Args:
            record: a value as JSON knows it; NaN and infinity are not, write None for them.
            sync: also bring it to the disk, so that it survives the end of the machine.

        Raises:
            TTFileError: JSON has no words for it, it is longer than LONGEST_LINE bytes, or the disk does not take it;
                the journal is as it was.
        """
        self._write(_to_line(record, "the record"), sync=sync)

    def records(self) -> Iterator[Json]:
        """Yield the records in the order in which they were added.

        Raises:
            TTFileError: a damaged line, by its number.
        """
        return _records(self.path)

    def close(self) -> None:
        """Let go of the file; closing twice is allowed."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"another run writes the journal {os.fspath(self.path)!r}: wait for its end, or choose another path"
            raise TTFileError(msg) from error
        except OSError:  # some network file systems have no locks: as on Windows
            pass

    def _is_begun(self) -> bool:
        """Whether the first line is whole.  What is no piece of a journal's first line is not ours to overwrite."""
        self._file.seek(0)
        start = self._file.read(len(_START)) or b""
        if not _START.startswith(start):
            refuse(f"the start of {os.fspath(self.path)!r}", start.decode(errors="replace"), "a journal", _FOREIGN)
        return len(start) == len(_START) and self._whole_size() > 0

    def _cut_torn_line(self) -> None:
        whole = self._whole_size()
        if whole < self._size():
            self._file.truncate(whole)

    def _whole_size(self) -> int:
        """How many bytes the complete lines take."""
        end = self._size()
        while end > 0:
            begin = max(end - _BLOCK, 0)
            self._file.seek(begin)
            at = (self._file.read(end - begin) or b"").rfind(b"\n")
            if at >= 0:
                return begin + at + 1
            end = begin
        return 0

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _write(self, line: bytes, *, sync: bool) -> None:
        before, rest = self._size(), memoryview(line)
        try:
            while rest:  # once, but for a disk that takes a part: the second time tells what is wrong with it
                rest = rest[self._file.write(rest) or 0 :]
            if sync:
                os.fsync(self._file.fileno())
        except BaseException as error:
            # Ctrl-C as well: a torn line must not come to stand in the middle.  A whole one may stay.
            failed = isinstance(error, OSError)
            if rest or failed:
                with suppress(OSError):
                    self._file.truncate(before)
            if failed:
                msg = f"cannot write {os.fspath(self.path)!r}: {error}; make room and resume, its records are whole"
                raise TTFileError(msg) from error
            raise


def read_journal(path: str | os.PathLike[str], /) -> tuple[Json, Iterator[Json]]:
    """Return the header and the records of a journal, without a lock and without changing it.

    A run may be writing it: the records are those that are whole when the iterator comes to them.

    Raises:
        FileNotFoundError: there is no such file.
        TTFileError: it is no journal, cannot be read, or, from the iterator, has a damaged line.
    """
    path = Path(path)
    return _read_header(path), _records(path)


def _open_to_append(path: Path, exclusively: int) -> FileIO:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | exclusively | getattr(os, "O_BINARY", 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o666)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        msg = f"cannot write {os.fspath(path)!r}: {error}; choose a path for the journal that can be written"
        if isinstance(error, FileExistsError) and path.exists():  # what exists is not something on the way to it
            msg = f"{os.fspath(path)!r} exists: resume that journal, remove it or choose another path"
        raise TTFileError(msg) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        msg = f"{os.fspath(path)!r} is a pipe or a device, which keeps nothing: choose another path for the journal"
        raise TTFileError(msg)
    return FileIO(descriptor, "a+")


def _sync_folder(path: Path) -> None:
    """The name of a new file is in its folder, and a power cut can take it.  Windows cannot do this."""
    with suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _to_line(value: Json, what: str) -> bytes:
    try:
        text = json.dumps(value, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"{what} cannot be written as JSON ({error}): use numbers, text, None, lists and dicts"
        raise TTFileError(msg) from error
    if len(text) >= LONGEST_LINE:
        refuse(f"the length of {what}", len(text), f"less than {LONGEST_LINE} bytes", "keep large data in other files")
    parse_object(text, what, "write None for a number that is not finite, and nothing as deep as that")
    return text.encode() + b"\n"


def _check_header(path: Path, expected: Json) -> None:
    differences = list(_differences(_read_header(path), expected))
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        msg = (
            f"cannot resume {os.fspath(path)!r}: {'; '.join(differences[:3])}{more}; "
            "resume with what it was begun with, or begin a new journal at another path"
        )
        raise TTFileError(msg)


def _differences(found: Any, expected: Any, name: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in [*found, *(expected.keys() - found.keys())]:
            yield from _differences(found.get(key), expected.get(key), f"{name}.{key}" if name else key)
    elif found != expected or type(found) is not type(expected):  # 1 == 1.0 == True, but not in a journal
        yield f"{name} was {show(found)} and is now {show(expected)}"


def _read_header(path: Path) -> Json:
    _, text = next(_lines(path), (1, ""))
    where = f"line 1 of {os.fspath(path)!r}"
    found = parse_object(text, where, _FOREIGN)
    if found.get("format") != FORMAT:
        refuse(f"the format in {where}", found.get("format"), repr(FORMAT), _FOREIGN)
    version = found.get("version")
    if type(version) is int and version > VERSION:
        remedy = "a newer ttlib wrote this file: upgrade with `pip install --upgrade ttlib`"
        refuse(f"the version in {where}", version, f"{VERSION} at most", remedy)
    check(f"the version in {where}", version, VERSION)
    if not isinstance(found.get("header"), dict):
        refuse(f"the header in {where}", found.get("header"), "an object", _FOREIGN)
    return dict(found["header"])


def _records(path: Path) -> Iterator[Json]:
    for number, text in _lines(path):
        if number > 1:
            yield parse_object(text, f"line {number} of {os.fspath(path)!r}", _DAMAGED)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The complete lines with their numbers."""
    try:
        with path.open("rb") as file:
            for number in count(1):
                line = file.readline(LONGEST_LINE + 1)
                if len(line) > LONGEST_LINE:
                    refuse(f"the length of line {number} of {os.fspath(path)!r}", "more", f"{LONGEST_LINE}", _DAMAGED)
                if not line.endswith(b"\n"):
                    return
                yield number, line.decode(errors="replace")
    except FileNotFoundError:
        raise
    except OSError as error:
        msg = f"cannot read {os.fspath(path)!r}: {error}; give the path of a readable journal"
        raise TTFileError(msg) from error

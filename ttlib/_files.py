"""Files and folders that are the old ones or the complete new ones, never half of each.

The new one is written under a temporary name in the same folder, brought to the disk and then renamed over the old
one.  A killed process can only leave its temporary behind; the next save under the same name removes that.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A file name may have 255 bytes: what stays of a long one leaves room for the rest of the temporary name.
_LONGEST_STEM = 40


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Hand out a temporary path beside `path` to write a file or folder to; a clean exit moves it into place.

    The temporary name keeps the suffix (some writers choose the format by it) and is removed when the body raises.
    A file made by `open` has the permissions of an ordinary new file, 0666 less the umask.  A symbolic link is
    replaced, not followed.  Raises OSError where this cannot be done.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # who may do it would lose /dev/null
        raise FileExistsError(errno.EEXIST, "a pipe or device is no place for a file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        _flush(temporary)
        _move_into_place(temporary, path)
    finally:
        remove(temporary)
    # From here on the new one is there: what goes wrong now must not make a caller believe otherwise.
    with suppress(OSError):
        _fsync(path.parent)
    # Not earlier: a leftover may be the last whole copy of a folder whose swap was cut short.
    with suppress(OSError):
        _remove_leftovers(path)


def remove(path: Path) -> None:
    """Remove a file or a whole folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    # The random part keeps the threads of one process apart.
    return path.with_name(f"{_temporary_prefix(path)}{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")


def _temporary_prefix(path: Path) -> str:
    # A process number means something on its own machine only, and a folder may be shared.
    machine = re.sub(r"\W", "_", platform.node())[:16]
    return f".{path.stem[:_LONGEST_STEM]}.ttlib-{machine}-"


def _flush(path: Path) -> None:
    """Bring a file, or a folder with all it holds, to the disk: a rename may survive a power cut that data does not."""
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            _flush(child)
        with suppress(OSError):  # Windows and some network file systems cannot do this for a folder
            _fsync(path)
    elif not path.is_symlink():
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_into_place(temporary: Path, path: Path) -> None:
    if not (temporary.is_dir() and path.is_dir()):
        temporary.replace(path)
        return
    # A rename swaps files in one step but refuses a folder that is not empty: two steps, and the deletion afterwards.
    aside = _temporary(path)
    path.rename(aside)
    try:
        temporary.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    remove(aside)


def _remove_leftovers(path: Path) -> None:
    pattern = re.compile(rf"{re.escape(_temporary_prefix(path))}(\d{{1,9}})-[0-9a-f]{{8}}{re.escape(path.suffix)}")
    for sibling in path.parent.iterdir():
        match = pattern.fullmatch(sibling.name)
        if match and not _is_running(int(match[1])):
            remove(sibling)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 is not a question but Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        pass
    return True

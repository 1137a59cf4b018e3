"""Finished runs as lines of JSON: appended whole or not at all, and read back with every damage named."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.paper.cells import Cell

try:
    import fcntl
except ImportError:  # Windows: studies that run at the same time need results files of their own there
    fcntl = None

_PACKAGES = ("ttlib", "numpy", "torch", "transformers", "peft")
_ROOT = Path(__file__).resolve().parents[2]
_CODE = ("ttlib/*.py", "ttlib_peft/*.py", "benchmarks/*.py")  # what decides a number; git's * crosses folders


class ResultsError(ValueError):
    """A results file that cannot be used."""


@dataclass(frozen=True)
class Line:
    """One finished run.

    Attributes:
        cell: what was run.
        outcome: what `training.run_cell` returned.
        commit: of the code that ran, as `environment` tells it.
        versions: of what it ran on.
    """

    cell: Cell
    outcome: dict[str, Any]
    commit: str
    versions: dict[str, str]

    @property
    def key(self) -> str:
        """The cell's: written for readers of the file, and made anew when it is read."""
        return self.cell.key

    def to_json(self) -> dict[str, Any]:
        """The line as JSON knows it: a number that is not finite becomes null."""
        return {
            "key": self.key,
            "cell": self.cell.to_json(),
            "outcome": finite(self.outcome),
            "commit": self.commit,
            "versions": self.versions,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The line that `to_json` wrote."""
        if not isinstance(value["outcome"], dict):
            msg = f"its outcome is {value['outcome']!r}"
            raise TypeError(msg)
        return cls(Cell.from_json(value["cell"]), value["outcome"], value["commit"], value["versions"])


def append(path: Path, line: Line) -> None:
    """Add a line with one write, and bring it to the disk.

    What a kill leaves of a line has no end of line: it is cut off here.  Raises TypeError for an outcome that JSON has
    no words for, before anything is written.
    """
    data = json.dumps(line.to_json(), allow_nan=False).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path) as descriptor:
        if os.fstat(descriptor).st_size and not _ends_whole(descriptor):
            os.ftruncate(descriptor, _whole(path.read_bytes()))
        written = os.write(descriptor, data)
        os.fsync(descriptor)
    if written < len(data):
        msg = f"{path} took {written} of {len(data)} bytes; make room on the disk and run again"
        raise OSError(msg)


def read(path: Path) -> dict[str, Line]:
    """The finished runs by key, the last one where a run was made twice; none where there is no file.

    A torn last line is left out, its run was interrupted.  Raises ResultsError for any other damage.
    """
    if not path.exists():
        return {}
    data = path.read_bytes()
    lines = {}
    for number, text in enumerate(data[: _whole(data)].split(b"\n")[:-1], start=1):
        try:
            line = Line.from_json(json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            msg = f"{path}, line {number} is not a result ({error!r}); take the line out, and its run is made again"
            raise ResultsError(msg) from error
        lines[line.key] = line
    return lines


def environment() -> tuple[str, dict[str, str]]:
    """The commit of the code, with "+dirty" where files of code differ from it, and what it runs on.

    Nothing in it names a machine, a place or a person.
    """
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return _commit(), {"python": platform.python_version(), **versions, "cpus": str(os.cpu_count())}


def _commit() -> str:
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError):  # an unpacked release
        return "unknown"
    return f"{head}+dirty" if changed else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


@contextmanager
def _alone(path: Path) -> Iterator[int]:
    """The file to append to, while no other process that asks this way may do so."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _ends_whole(descriptor: int) -> bool:
    os.lseek(descriptor, -1, os.SEEK_END)
    return os.read(descriptor, 1) == b"\n"


def _whole(data: bytes) -> int:
    """How many bytes the complete lines take."""
    return data.rfind(b"\n") + 1


def finite(value: Any) -> Any:
    """The value with None in place of what JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value

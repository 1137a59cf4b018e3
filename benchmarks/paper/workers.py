"""A process that runs cells one after the other on one thread.

`concurrent.futures` has pools of such processes, but loses all that they run when one of them is killed, cannot tell
which one it was, cannot be stopped in the middle of a run, and leaves its processes behind when it is killed itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from benchmarks.paper.cells import Cell
from benchmarks.paper.tasks import Source

RunCell = Callable[[Cell, Source], dict[str, Any]]

# Numbers depend on the number of threads, and numpy and torch look at these only once, when they are imported.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Failed:
    """A run that raised."""

    error: str
    trace: str


@dataclass(frozen=True)
class Killed:
    """A run whose process ended: the exit code, or minus the number of the signal."""

    exit_code: int

    @property
    def error(self) -> str:
        """What happened, in words."""
        if self.exit_code >= 0:
            return f"its process ended with exit code {self.exit_code}"
        hint = "; is there enough memory?" if self.exit_code == -signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-self.exit_code).name}{hint}"


class Worker:
    """One process; it ends when `stop` is called, and with the process that made it, however that ends."""

    def __init__(self, run_cell: RunCell, source: Source) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _ignoring_ctrl_c():
            self._process.start()
        theirs.close()
        self._cell: Cell | None = None
        self._send((run_cell, source))

    @property
    def cell(self) -> Cell:
        """What it runs."""
        if self._cell is None:
            msg = "this worker was not given a cell; start one first"
            raise RuntimeError(msg)
        return self._cell

    def start(self, cell: Cell) -> None:
        """Begin to run a cell."""
        self._cell = cell
        self._send(cell)

    def result(self) -> dict[str, Any] | Failed | Killed:
        """Wait for the end of the run."""
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            return Killed(self._process.exitcode)

    def stop(self) -> None:
        """End the process now, whatever it does."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _send(self, what: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead already, which `result` will tell
            self._connection.send(what)

    @staticmethod
    def ready(workers: Iterable[Worker]) -> list[Worker]:
        """Wait until at least one of the workers has a result, and tell which have."""
        by_connection = {worker._connection: worker for worker in workers}
        return [by_connection[connection] for connection in wait(by_connection)]


@contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """A process that is started inside ignores Ctrl-C for good: a terminal sends it to all, the parent acts on it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection) -> None:
    os.environ.update(_ENVIRONMENT)
    warnings.simplefilter("ignore", FutureWarning)  # between libraries; users can do nothing about it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError):
        run_cell, source = connection.recv()  # not arguments of this function: to unpickle them may import torch
        while True:
            cell = connection.recv()
            try:
                connection.send(run_cell(cell, source))
            except Exception as error:  # whatever goes wrong in a cell is that cell's result
                connection.send(Failed(f"{type(error).__name__}: {error}", traceback.format_exc()))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)

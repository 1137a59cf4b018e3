"""A process that runs tasks one after the other, and ends with the process that made it, however that ends.

`concurrent.futures` has pools of such processes, but loses all that they run when one of them is killed, cannot tell
which one it was, cannot be stopped in the middle of a task, and leaves its processes behind when it is killed itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from ttlib.checkpoint.engines.protocol import Function, Outcome, Task, attempt, failure
from ttlib.errors import BackendError

# Numbers depend on the number of threads, and two processes of two threads each on two cores are slower than of one.
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_READY = None  # what a worker says first


@dataclass(frozen=True, slots=True)
class Killed:
    """A task whose process ended: the exit code, or minus the number of the signal."""

    exit_code: int

    @property
    def error(self) -> str:
        """What happened, in words."""
        if self.exit_code >= 0:
            return f"its process ended with exit code {self.exit_code}"
        hint = "; is there enough memory?" if self.exit_code == -signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-self.exit_code).name}{hint}"


class Worker:
    """One process: `start` a task, wait for it with `Worker.wait`, `receive` its outcome, `stop`.

    Starting returns at once; the task begins when the process has imported what it needs.
    """

    def __init__(self, *, threads: int = 1) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._connection, theirs = context.Pipe()
        # It has no children of its own, and a daemon is ended when the parent's interpreter is.
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _environment(dict.fromkeys(_THREADS, str(threads))), _holding_back_ctrl_c():
            self._process.start()
        theirs.close()
        self._is_ready = False
        self._task: Task | None = None

    @property
    def task(self) -> Task:
        """What it runs."""
        if self._task is None:
            msg = "this worker was not given a task; start one first"
            raise RuntimeError(msg)
        return self._task

    @property
    def process_id(self) -> int:
        """Of its process."""
        return int(self._process.pid or 0)

    def start(self, function: Function, task: Task) -> None:
        """Begin to run a task."""
        self._task = task
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead already, which `receive` will tell
            self._connection.send((function, task))

    def receive(self) -> Outcome | Killed | None:
        """Return what there is to know when `Worker.wait` has named this one; None: it has only just come up.

        Raises BackendError if the process could not come up, which no other would.
        """
        try:
            outcome: Outcome | None = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            killed = Killed(int(self._process.exitcode or 0))
            if self._is_ready or killed.exit_code < 0:
                return killed
            msg = (
                f"worker processes cannot start: {killed.error} before its first task; call this from a program that "
                "can be imported without running it (`if __name__ == '__main__':`), or use no workers (workers=0)"
            )
            raise BackendError(msg) from None
        self._is_ready = True
        return outcome

    def stop(self) -> None:
        """End the process now, whatever it does."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()

    @staticmethod
    def wait(workers: Iterable[Worker]) -> list[Worker]:
        """Wait until at least one of the workers has something to receive, and tell which have."""
        workers = list(workers)
        ready = wait([worker._connection for worker in workers])
        return [worker for worker in workers if worker._connection in ready]


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Processes that are started inside have these variables: BLAS looks at them once, when numpy is imported."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _holding_back_ctrl_c() -> Iterator[None]:
    """A process that is started inside never hears of Ctrl-C: a terminal sends it to all, the parent acts on it.

    Blocked signals stay blocked in children.  Ours is only late: it comes when the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing starts this process too, and unblocks the signal after it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems where it was not blocked
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        connection.send(_READY)
        while True:
            try:
                function, task = connection.recv()  # to unpickle the function imports its module, which may raise
            except (EOFError, OSError):
                return
            except Exception as error:
                connection.send(failure("", error))
            else:
                connection.send(attempt(function, task))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""Dask distributed: the processors of many machines, behind a scheduler that gives a lost task to another worker."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ttlib.checkpoint.engines.protocol import Function, Outcome, Task, attempt, failure, largest_first
from ttlib.checkpoint.engines.resources import usable_processors
from ttlib.errors import BackendError

# Both are raised when the scheduler has forgotten a task, and the second one is no Exception.
_GONE = (concurrent.futures.CancelledError, asyncio.CancelledError, OSError)


class DaskEngine:
    """Runs tasks on a Dask cluster, one task of Dask for each.

        for outcome in DaskEngine("tcp://10.0.0.1:8786").run(function, tasks):
            ...

    Workers need the same ttlib, the module of the function, and the files that tasks read under the same paths.  Start
    them with one thread each, as many as their machine has memory for, and with `--memory-limit 0`: Dask counts pages
    of mapped files, which cost nothing, and ends a worker that has many.  Dask sets one thread of BLAS itself.  A
    task whose worker is lost is run again, up to the scheduler's `allowed-failures` (3 times, if not configured
    otherwise); the memory that a task may take is not looked at.  A scheduler without workers waits for some to come.

    Args:
        scheduler: the address of a scheduler, such as "tcp://10.0.0.1:8786"; None: a cluster of processes on this
            machine, which takes a few seconds to start, ends with the run and leaves nothing behind.
        workers: the number of processes of that cluster; None: the processors that this process may use.
        timeout: how long to try to reach the scheduler, in seconds.

    Raises:
        ImportError: the package distributed is missing.
        ValueError: the workers of a running cluster are asked for, or less than one.
    """

    def __init__(self, scheduler: str | None = None, *, workers: int | None = None, timeout: float = 30.0) -> None:
        self._distributed = _import_distributed()
        if scheduler is not None and workers is not None:
            msg = f"workers is {workers}, but the cluster at {scheduler} has its own: leave it out, or the address"
            raise ValueError(msg)
        if workers is not None and workers < 1:
            msg = f"workers is {workers}; give 1 or more"
            raise ValueError(msg)
        self.scheduler = scheduler
        self.workers = usable_processors() if workers is None else workers
        self.timeout = timeout

    def run(self, function: Function, tasks: Iterable[Task], /) -> Iterator[Outcome]:
        """Yield the outcomes in the order of completion; see `Engine.run`.

        Raises:
            BackendError: the cluster cannot be started or reached, or its scheduler is gone.
        """
        return self._outcomes(function, largest_first(tasks))

    def _outcomes(self, function: Function, queue: list[Task]) -> Iterator[Outcome]:
        if not queue:
            return
        with self._client() as client:
            name = f"ttlib-{secrets.token_hex(8)}"  # a scheduler that others use as well has one name space
            keys = {}
            for at, task in enumerate(queue):
                future = client.submit(attempt, function, task, key=(name, at), priority=-at, pure=False)
                keys[future] = task.key
            for future in self._distributed.as_completed(list(keys), loop=client.loop):
                yield self._outcome(keys.pop(future), future)  # not kept, so that the cluster may forget it

    def _outcome(self, key: str, future: Any) -> Outcome:
        try:
            return future.result()  # type: ignore[no-any-return]
        except self._distributed.KilledWorker as error:
            tries = error.allowed_failures + 1
            return Outcome(key, None, f"its workers ended, all {tries} that tried it; is there enough memory?")
        except _GONE as error:
            where = f"at {self.scheduler}" if self.scheduler else "of this machine's cluster"
            msg = (
                f"the Dask scheduler {where} is gone ({type(error).__name__}): what was finished is kept; "
                "start one again and go on from there (`--resume`)"
            )
            raise BackendError(msg) from error
        except Exception as error:  # from the worker's side of the call: it has no ttlib, or not the function's module
            return failure(key, error)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        with ExitStack() as stack:
            cluster = stack.enter_context(self._local_cluster()) if self.scheduler is None else self.scheduler
            try:
                # Not the default one: the user's own Dask code is not to run on this cluster.
                client = self._distributed.Client(cluster, timeout=self.timeout, set_as_default=False)
            except (OSError, ValueError) as error:
                msg = (
                    f"no Dask scheduler answers at {self.scheduler} ({type(error).__name__}: {error}): check the "
                    "address, start one with `dask scheduler`, or leave the address out for a cluster on this machine; "
                    "what was finished is kept, go on from there (`--resume`)"
                )
                raise BackendError(msg) from error
            yield stack.enter_context(client)

    @contextmanager
    def _local_cluster(self) -> Iterator[Any]:
        with tempfile.TemporaryDirectory(prefix="ttlib-dask-", ignore_cleanup_errors=True) as folder:
            try:
                cluster = self._distributed.LocalCluster(
                    n_workers=self.workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=0,
                    dashboard_address=None,
                    local_directory=folder,  # otherwise one that is shared by all users of the machine
                    # The scheduler has a folder as well, and always a page; at its usual port there may be another's.
                    scheduler_kwargs={"local_directory": folder, "dashboard_address": "127.0.0.1:0"},
                    silence_logs=logging.ERROR,
                )
            except (RuntimeError, OSError, TimeoutError) as error:
                msg = (
                    f"the Dask cluster on this machine cannot start ({type(error).__name__}: {error}); call this from "
                    "a program that can be imported without running it (`if __name__ == '__main__':`), or use the "
                    "local engine"
                )
                raise BackendError(msg) from error
            with cluster:
                yield cluster


def _import_distributed() -> Any:
    try:
        import distributed  # noqa: PLC0415  # optional, and slow to import
    except ImportError as error:
        msg = "the Dask engine needs the package distributed: pip install ttlib[dask]"
        raise ImportError(msg) from error
    return distributed

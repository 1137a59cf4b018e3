"""The cores of this machine: one process each, within a budget of memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

from ttlib.checkpoint.engines.protocol import TRIES, Function, Outcome, Task, attempt, largest_first
from ttlib.checkpoint.engines.resources import available_memory, usable_processors
from ttlib.checkpoint.engines.worker import Killed, Worker
from ttlib.errors import BackendError

_SHARE = 0.5  # of the available memory: the processes themselves, page tables and everybody else need the rest


class LocalEngine:
    """Runs tasks in processes of their own on this machine.

    >>> tasks = [Task("small", ({"rank": 2},), cost=1), Task("large", ({"rank": 8},), cost=4)]
    >>> [(outcome.key, outcome.result) for outcome in LocalEngine(workers=0).run(dict, tasks)]
    [('large', {'rank': 8}), ('small', {'rank': 2})]

    The largest task that fits the memory is begun first.  When a process is killed, its task is tried once more, with
    no other beside it; the other tasks do not notice.  Ctrl-C ends all processes at once, and they end by themselves
    when this process is killed.

    Args:
        workers: the number of processes; None: the processors that this process may use; 0: everything runs in this
            process, which is quickest for little work and easiest to debug.
        memory: what the tasks that run at the same time may take together, in bytes; None: half of what is available
            to this process.  A task that alone may take more runs alone.
        threads: of BLAS in each process; results are the same for the same number.

    Raises:
        ValueError: a number that cannot be.
    """

    def __init__(self, *, workers: int | None = None, memory: int | None = None, threads: int = 1) -> None:
        for name, value, least in (("workers", workers, 0), ("memory", memory, 0), ("threads", threads, 1)):
            if value is not None and value < least:
                msg = f"{name} is {value}; give {least} or more"
                raise ValueError(msg)
        self.workers = usable_processors() if workers is None else workers
        self.memory = int(available_memory() * _SHARE) if memory is None else memory
        self.threads = threads

    def run(self, function: Function, tasks: Iterable[Task], /) -> Iterator[Outcome]:
        """Yield the outcomes in the order of completion; see `Engine.run`.

        Raises:
            ValueError: two tasks have the same key.
            BackendError: the function cannot be sent to other processes, or these cannot start.
        """
        queue = largest_first(tasks)
        if self.workers == 0:
            return (attempt(function, task) for task in queue)
        _check_that_it_travels(function)
        return _Run(self, function, queue).outcomes()


def _check_that_it_travels(function: Function) -> None:
    try:
        ForkingPickler.dumps(function)
    except Exception as error:  # there is no saying what an object raises
        msg = (
            f"{function!r} cannot be sent to other processes ({error}); define it at the top of a module, or use none "
            "(workers=0)"
        )
        raise BackendError(msg) from error


class _Run:
    def __init__(self, engine: LocalEngine, function: Function, queue: list[Task]) -> None:
        self._engine, self._function, self._queue = engine, function, queue
        self._idle: list[Worker] = []
        self._busy: list[Worker] = []
        self._deaths: Counter[str] = Counter()

    def outcomes(self) -> Iterator[Outcome]:
        try:
            self._hand_out()
            while self._busy:
                finished = self._collect()
                self._hand_out()  # before the caller looks at the outcomes, which may take it a while
                yield from finished
        finally:
            for worker in [*self._idle, *self._busy]:
                worker.stop()

    def _hand_out(self) -> None:
        while len(self._busy) < self._engine.workers and (task := self._take()) is not None:
            worker = self._idle.pop() if self._idle else Worker(threads=self._engine.threads)
            self._busy.append(worker)
            worker.start(self._function, task)

    def _take(self) -> Task | None:
        """The first task that fits beside those that run; one whose process was killed is given the machine alone.

        Smaller ones may overtake one that needs all the memory.  It would have to run alone in any case, so whether
        that is now or later costs the same time.
        """
        running = [worker.task for worker in self._busy]
        if any(task.key in self._deaths for task in running):
            return None
        free = self._engine.memory - sum(task.memory for task in running)
        for at, task in enumerate(self._queue):
            if not running or (task.memory <= free and task.key not in self._deaths):
                return self._queue.pop(at)
        return None

    def _collect(self) -> list[Outcome]:
        """Wait for the end of tasks, and return what became of them."""
        finished = []
        for worker in Worker.wait(self._busy):
            message = worker.receive()
            if message is None:
                continue
            self._busy.remove(worker)
            if isinstance(message, Killed):
                worker.stop()
                finished += self._count_death(worker.task, message)
            else:
                self._idle.append(worker)
                finished.append(replace(message, key=worker.task.key))
        return finished

    def _count_death(self, task: Task, death: Killed) -> list[Outcome]:
        self._deaths[task.key] += 1
        if self._deaths[task.key] == TRIES:
            return [Outcome(task.key, None, death.error)]
        self._queue.append(task)  # behind the others: until it can be alone, they need not wait
        return []

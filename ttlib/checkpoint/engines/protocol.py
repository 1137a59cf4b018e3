"""What an engine is: it runs independent tasks and hands over the outcome of each, whatever became of it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Function: TypeAlias = Callable[..., dict[str, Any]]

TRIES = 2  # of a task whose process is killed: the first time, another one may have taken the memory


@dataclass(frozen=True, slots=True)
class Task:
    """One call of the function of a run.

    Attributes:
        key: what the outcome is found by; unique in a run.
        arguments: of the call; plain values that can be pickled, for they may travel.
        cost: how long it takes, in any unit: the largest are begun first, for none of them may be left to the end.
        memory: the bytes of anonymous memory that it may take.
    """

    key: str
    arguments: tuple[Any, ...] = ()
    cost: float = 1.0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task.

    Attributes:
        key: the task's.
        result: what the function returned, as JSON reads it back: the same from every engine, and from a journal.
        error: what went wrong, on one line; None where there is a result.
        trace: the traceback of an exception, "" where there is none.
    """

    key: str
    result: dict[str, Any] | None
    error: str | None = None
    trace: str = ""


class Engine(Protocol):
    """Runs tasks; every engine gives the same results."""

    def run(self, function: Function, tasks: Iterable[Task], /) -> Iterator[Outcome]:
        """Yield the outcomes in the order of completion; nothing runs any more when the iterator ends or is closed.

        Args:
            function: a function at the top of a module, called with the arguments of each task; returns a dict that
                can be written as JSON.  An exception becomes the outcome of its task, and so does the end of a process
                that was killed twice with it.
            tasks: with different keys; none at all start nothing.

        Raises:
            ValueError: two tasks have the same key.
            BackendError: no task can run: there are no processes, or no cluster.
        """
        ...


def largest_first(tasks: Iterable[Task], /) -> list[Task]:
    """Return the tasks in the order in which to begin them, the same one for the same tasks.

    >>> [task.key for task in largest_first([Task("a", cost=1), Task("b", cost=3), Task("c", cost=3)])]
    ['b', 'c', 'a']
    """
    ordered = sorted(tasks, key=lambda task: (-task.cost, task.key))
    seen: set[str] = set()
    for task in ordered:
        if task.key in seen:
            msg = f"two tasks have the key {task.key!r}: give each its own"
            raise ValueError(msg)
        seen.add(task.key)
    return ordered


def attempt(function: Function, task: Task, /) -> Outcome:
    """Run a task in this process.

    >>> attempt(lambda x: {"half": x / 2}, Task("a", (3,)))
    Outcome(key='a', result={'half': 1.5}, error=None, trace='')
    >>> attempt(lambda x: {"half": x / 2}, Task("b", ("three",))).error
    "TypeError: unsupported operand type(s) for /: 'str' and 'int'"
    """
    try:
        text = json.dumps(function(*task.arguments), allow_nan=False)
        result = json.loads(text)
        if not isinstance(result, dict):
            msg = f"the function returned {text[:80]}, not a dict"
            raise TypeError(msg)  # noqa: TRY301  # to be told like everything else that can be wrong with a result
    except Exception as error:  # whatever goes wrong in a task is that task's outcome
        return failure(task.key, error)
    return Outcome(task.key, result)


def failure(key: str, error: BaseException, /) -> Outcome:
    """The outcome of a task that raised."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return Outcome(key, None, line, "".join(traceback.format_exception(error)))

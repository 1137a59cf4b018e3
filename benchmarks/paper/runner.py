"""Runs the cells of a profile over processes, keeps each result as it comes, and never makes a finished run again."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.paper.cells import Cell
from benchmarks.paper.pace import time_left
from benchmarks.paper.profile import Agenda, Profile, agenda
from benchmarks.paper.results import Line, append, environment, finite, read
from benchmarks.paper.tasks import Source
from ttlib.checkpoint.engines import Outcome, Task
from ttlib.checkpoint.engines.protocol import TRIES
from ttlib.checkpoint.engines.worker import Killed, Worker

RunCell = Callable[[Cell, Source], dict[str, Any]]


@dataclass
class Summary:
    """What a call of `run` did.

    Attributes:
        finished: results that were kept.
        diverged: how many of them ended in a loss that is no number.
        failed: the other cells, by label, and what went wrong.
        left: cells of the chosen studies that have no result.
        interrupted: whether Ctrl-C ended it.
    """

    finished: int = 0
    diverged: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    left: int = 0
    interrupted: bool = False


def train_cell(cell: Cell, source: Source) -> dict[str, Any]:
    """`training.run_cell`, imported where it runs: the parent needs no torch."""
    from benchmarks.paper.training import run_cell

    return run_cell(cell, source)


def carry_out(run_cell: RunCell, cell: Cell, source: Source) -> dict[str, Any]:
    """Run a cell in a worker; a loss that is no number becomes null, which JSON has a word for."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process a core is enough
    warnings.simplefilter("ignore", FutureWarning)  # between libraries; users can do nothing about it
    return finite(run_cell(cell, source))


def run(
    profile: Profile,
    source: Source,
    results: Path,
    *,
    workers: int = 1,
    only: Collection[str] | None = None,
    limit_seconds: float | None = None,
    run_cell: RunCell = train_cell,
    echo: Callable[[str], None] = print,
) -> Summary:
    """Run what the studies named in `only` (None: all of them) still need, in the profile's order.

    A run that diverges is a result.  One that raises, or whose process is killed twice, is none: it is named in the
    summary, the others go on, and the next call tries it again.  After `limit_seconds` no run is started.

    Raises ResultsError for a damaged file of results, UnknownStudyError for a study that the profile does not have.
    """
    schedule = _Schedule(profile, read(results), only)
    return _Run(schedule, source, results, workers, limit_seconds, run_cell, echo).go()


class _Schedule:
    """Which cell is next."""

    def __init__(self, profile: Profile, lines: dict[str, Line], only: Collection[str] | None) -> None:
        self._profile, self._only = profile, only
        self.lines = lines
        self.put_aside: set[str] = set()
        self.agenda = agenda(profile, lines, only)

    def next(self, running: Collection[Cell]) -> Cell | None:
        """The first cell that is ready, does not run, and was not put aside."""
        taken = {cell.key for cell in running} | self.put_aside
        return next((cell for cell in self.agenda.ready if cell.key not in taken), None)

    def keep(self, line: Line) -> None:
        """Count a run as finished; learning rates that hang on it are picked."""
        self.lines[line.key] = line
        self.agenda = agenda(self._profile, self.lines, self._only)


class _Run:
    def __init__(
        self,
        schedule: _Schedule,
        source: Source,
        results: Path,
        workers: int,
        limit_seconds: float | None,
        run_cell: RunCell,
        echo: Callable[[str], None],
    ) -> None:
        self._schedule, self._results, self._echo = schedule, results, echo
        self._run_cell, self._source = run_cell, source
        self._size = workers
        self._idle: list[Worker] = []
        self._busy: list[Worker] = []
        self._commit, self._versions = environment()
        self._deaths: Counter[str] = Counter()
        self._told_at_length: set[str] = set()
        self._summary = Summary()
        self._end = math.inf if limit_seconds is None else time.monotonic() + limit_seconds

    def go(self) -> Summary:
        try:
            while self._hand_out():
                self._collect()
        except KeyboardInterrupt:
            self._summary.interrupted = True
        finally:
            for worker in [*self._idle, *self._busy]:
                worker.stop()
        self._summary.left = self._agenda.total - len(self._agenda.done)
        return self._summary

    @property
    def _agenda(self) -> Agenda:
        return self._schedule.agenda

    def _hand_out(self) -> bool:
        """Give cells to free workers; whether any worker is busy."""
        while len(self._busy) < self._size and time.monotonic() < self._end:
            cell = self._schedule.next([_cell(worker) for worker in self._busy])
            if cell is None:
                break
            self._busy.append(self._idle.pop() if self._idle else Worker())
            self._busy[-1].start(carry_out, Task(cell.key, (self._run_cell, cell, self._source)))
        return bool(self._busy)

    def _collect(self) -> None:
        """Wait for results, and take those that are there."""
        for worker in Worker.wait(self._busy):
            outcome, cell = worker.receive(), _cell(worker)
            if outcome is None:  # it has only just come up
                continue
            self._busy.remove(worker)
            if isinstance(outcome, Killed):
                worker.stop()
                self._count_death(cell, outcome)
                continue
            self._idle.append(worker)
            if outcome.result is None:
                self._fail(cell, outcome)
            else:
                self._keep(cell, outcome.result)

    def _keep(self, cell: Cell, outcome: dict[str, Any]) -> None:
        line = Line(cell, outcome, self._commit, self._versions)
        append(self._results, line)
        self._schedule.keep(line)
        self._summary.finished += 1
        self._summary.diverged += outcome["status"] == "diverged"
        self._echo(f"{self._progress()} {cell.label}: {_scores(outcome)}{self._time_left()}")

    def _fail(self, cell: Cell, outcome: Outcome) -> None:
        # A fault that all cells share is told at length once.
        error = str(outcome.error)
        trace = "" if error in self._told_at_length else f"\n{outcome.trace.rstrip()}"
        self._told_at_length.add(error)
        self._put_aside(cell, error, trace)

    def _count_death(self, cell: Cell, death: Killed) -> None:
        self._deaths[cell.key] += 1
        if self._deaths[cell.key] < TRIES:
            self._echo(f"{self._progress()} {cell.label}: started again, {death.error}")
        else:
            self._put_aside(cell, death.error)

    def _put_aside(self, cell: Cell, error: str, trace: str = "") -> None:
        self._schedule.put_aside.add(cell.key)
        self._summary.failed.append((cell.label, error))
        self._echo(f"{self._progress()} {cell.label}: failed, {error}{trace}")

    def _progress(self) -> str:
        total = str(self._agenda.total)
        return f"[{len(self._agenda.done):>{len(total)}}/{total}]"

    def _time_left(self) -> str:
        left = time_left([*self._agenda.ready, *self._agenda.waiting], self._schedule.lines).among(self._size)
        return f"; {left} to go" if left else ""


def _cell(worker: Worker) -> Cell:
    _, cell, _ = worker.task.arguments
    return cell


def _scores(outcome: dict[str, Any]) -> str:
    if outcome["status"] == "diverged":
        return "diverged"
    return ", ".join(f"{task} {score:.4f}" for task, score in outcome["scores"].items())

"""A profile: which cells make up which table, and which runs the learning rates are picked from."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from benchmarks.paper.cells import Cell
from benchmarks.paper.results import Line

TOLERANCE = 0.01  # of a score, well below the standard error of an accuracy on the 256 rows of a tuning slice


class UnknownStudyError(ValueError):
    """A study that a profile does not have."""


@dataclass(frozen=True)
class Profile:
    """A study at one size.

    Attributes:
        name: of the results file and on the command line.
        description: one line.
        studies: the cells of each table; a cell may be in several.  Learning rate None: what `tuning` picks.
        tuning: by "model/method", or "model/method/task", the same runs at several learning rates, scored on a slice of
            the training rows.
        budgets: how the budgets were chosen, in a sentence or two.
        tuned_on: for tasks whose rate is not picked on all tasks of a tuning together, the one that stands for them.
    """

    name: str
    description: str
    studies: Mapping[str, tuple[Cell, ...]]
    tuning: Mapping[str, tuple[Cell, ...]] = field(default_factory=dict)
    tuned_on: Mapping[str, str] = field(default_factory=dict)
    budgets: str = ""

    def tuning_of(self, cell: Cell) -> str:
        """The name of the tuning that gives a cell its learning rate; of a sequence, that of its first task."""
        own = self.tuned_on.get(cell.tasks[0])
        return f"{cell.model}/{cell.method}" + (f"/{own}" if own else "")

    def __post_init__(self) -> None:
        for name, cells in self.tuning.items():
            self._check_tuning(name, cells)
        for study, cells in self.studies.items():
            for cell in cells:
                name = self.tuning_of(cell)
                if cell.learning_rate is None and name not in self.tuning:
                    msg = f"{study}: {cell.label} has no learning rate; give it one, or a tuning of {name!r}"
                    raise ValueError(msg)

    def _check_tuning(self, name: str, cells: Iterable[Cell]) -> None:
        """Refuse a comparison of learning rates that is none, or that looks at the reported rows."""
        compared = defaultdict(set)
        for cell in cells:
            if cell.learning_rate is None or cell.scored_on != "tune" or self.tuning_of(cell) != name:
                msg = f"tuning of {name!r}: {cell.label}; it takes its own cells, with rates, scored on 'tune'"
                raise ValueError(msg)
            compared[cell.learning_rate].add(replace(cell, learning_rate=None))
        if not compared or any(runs != next(iter(compared.values())) for runs in compared.values()):
            counts = {rate: len(runs) for rate, runs in compared.items()}
            msg = f"tuning of {name!r} has runs by rate {counts}; give every rate the same tasks, seeds and budgets"
            raise ValueError(msg)


@dataclass(frozen=True)
class Agenda:
    """What a run of some studies is about, in the profile's order and each cell once.

    Attributes:
        done: finished cells, those that learning rates are picked from among them.
        ready: cells that can be run now; the tuning of a method comes before the first cell that waits for it.
        waiting: cells whose learning rate is still to be picked.
    """

    done: tuple[Cell, ...]
    ready: tuple[Cell, ...]
    waiting: tuple[Cell, ...]

    @property
    def total(self) -> int:
        """How many cells there are."""
        return len(self.done) + len(self.ready) + len(self.waiting)


def picks(profile: Profile, lines: Mapping[str, Line]) -> dict[str, float]:
    """The learning rate of each tuning that is complete.

    It is the smallest one whose mean score over tasks and seeds is within `TOLERANCE` of the best: what is as good as
    the best for all that few rows can tell, and less likely to fail for another seed.  A rate at which a run diverged
    is behind all others.
    """
    return {
        name: _best_rate(cells, lines)
        for name, cells in profile.tuning.items()
        if all(cell.key in lines for cell in cells)
    }


def resolve(profile: Profile, lines: Mapping[str, Line]) -> dict[str, tuple[Cell, ...]]:
    """The cells of each table with their learning rates filled in, as far as these have been picked."""
    chosen = picks(profile, lines)
    return {name: tuple(_with_rate(profile, cell, chosen) for cell in cells) for name, cells in profile.studies.items()}


def agenda(profile: Profile, lines: Mapping[str, Line], only: Collection[str] | None = None) -> Agenda:
    """What is done and what is to be done for the studies named in `only` (None: all), with the tuning they need.

    Raises UnknownStudyError for a study that the profile does not have.
    """
    unknown = sorted(set(only or ()) - set(profile.studies))
    if unknown:
        msg = f"profile {profile.name!r} has no study {', '.join(unknown)}; it has {', '.join(profile.studies)}"
        raise UnknownStudyError(msg)
    names = [name for name in profile.studies if only is None or name in only]
    resolved = resolve(profile, lines)
    cells: dict[Cell, None] = {}
    for name in names:
        for open_cell, cell in zip(profile.studies[name], resolved[name], strict=True):
            tuning = () if open_cell.learning_rate is not None else profile.tuning[profile.tuning_of(cell)]
            cells |= dict.fromkeys([*tuning, cell])
    rated = [cell for cell in cells if cell.learning_rate is not None]
    return Agenda(
        done=tuple(cell for cell in rated if cell.key in lines),
        ready=tuple(cell for cell in rated if cell.key not in lines),
        waiting=tuple(cell for cell in cells if cell.learning_rate is None),
    )


def _best_rate(cells: Iterable[Cell], lines: Mapping[str, Line]) -> float:
    scores: dict[float, list[float]] = defaultdict(list)
    for cell in cells:
        scores[cell.learning_rate].append(_score(lines[cell.key]))
    means = {rate: statistics.fmean(own) for rate, own in scores.items()}
    return min(rate for rate, mean in means.items() if mean >= max(means.values()) - TOLERANCE)


def _score(line: Line) -> float:
    """The mean over the tasks of a run; minus infinity where it diverged or a score is no number."""
    scores = [] if line.outcome["status"] == "diverged" else list(line.outcome["scores"].values())
    return -math.inf if not scores or None in scores else statistics.fmean(scores)


def _with_rate(profile: Profile, cell: Cell, chosen: Mapping[str, float]) -> Cell:
    return cell if cell.learning_rate is not None else replace(cell, learning_rate=chosen.get(profile.tuning_of(cell)))

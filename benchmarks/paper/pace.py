"""How long the rest of a study takes, from the CPU seconds of what is done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

from benchmarks.paper.cells import Cell
from benchmarks.paper.results import Line

# What says most about the seconds of a step comes first; a cell is reckoned by the first that something is known of.
_LIKENESS: tuple[Callable[[Cell], Hashable], ...] = (
    lambda cell: (cell.model, cell.method, cell.tasks, cell.budget.max_length),
    lambda cell: (cell.model, cell.tasks, cell.budget.max_length),
    lambda cell: cell.model,  # another one may take ten times as long, and says nothing
)


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """What runs are likely to take: CPU seconds, and how many runs of a model of which none has been timed."""

    seconds: float
    untimed: int

    def __str__(self) -> str:
        return self.among(1)

    def among(self, workers: int) -> str:
        """In words, of so many processes; empty where nothing is left.

        >>> TimeLeft(12_000, untimed=3).among(2)
        'about 1 h 40 min, and 3 runs of a model that has not been timed yet'
        """
        known = f"about {words(self.seconds / workers)}" if self.seconds else ""
        untimed = (
            f"{self.untimed} run{'' if self.untimed == 1 else 's'} of a model that has not been timed yet"
            if self.untimed
            else ""
        )
        return ", and ".join(filter(None, (known, untimed)))


def cpu_seconds(lines: Iterable[Line]) -> float:
    """What runs took together."""
    return sum(line.outcome.get("cpu_seconds") or 0.0 for line in lines)


def time_left(cells: Iterable[Cell], lines: Mapping[str, Line]) -> TimeLeft:
    """What `cells` are likely to take, reckoned from what is done."""
    paces = [_paces(lines.values(), likeness) for likeness in _LIKENESS]
    seconds = [None if (pace := _pace(cell, paces)) is None else _steps(cell) * pace for cell in cells]
    return TimeLeft(sum(own for own in seconds if own is not None), untimed=seconds.count(None))


def words(seconds: float) -> str:
    """A time as one says it.

    >>> words(42), words(600), words(6000)
    ('42 s', '10 min', '1 h 40 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _paces(lines: Iterable[Line], likeness: Callable[[Cell], Hashable]) -> dict[Hashable, float]:
    """CPU seconds a step, by kind."""
    groups: dict[Hashable, list[Line]] = defaultdict(list)
    for line in lines:
        groups[likeness(line.cell)].append(line)
    return {kind: cpu_seconds(group) / sum(_steps(line.cell) for line in group) for kind, group in groups.items()}


def _pace(cell: Cell, paces: Iterable[Mapping[Hashable, float]]) -> float | None:
    known = (by_kind.get(likeness(cell)) for likeness, by_kind in zip(_LIKENESS, paces, strict=True))
    return next((pace for pace in known if pace is not None), None)


def _steps(cell: Cell) -> int:
    return cell.budget.steps * len(cell.tasks)

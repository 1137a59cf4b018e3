"""How long the rest of a study takes, from the CPU seconds of what is done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping

from benchmarks.paper.cells import Cell
from benchmarks.paper.results import Line

# What says most about the seconds of a step comes first; a cell is reckoned by the first that something is known of.
_LIKENESS: tuple[Callable[[Cell], Hashable], ...] = (
    lambda cell: (cell.model, cell.method, cell.tasks, cell.budget.max_length),
    lambda cell: (cell.model, cell.tasks, cell.budget.max_length),
    lambda cell: cell.model,
    lambda _: None,
)


def cpu_seconds(lines: Iterable[Line]) -> float:
    """What runs took together."""
    return sum(line.outcome.get("cpu_seconds") or 0.0 for line in lines)


def seconds_left(cells: Iterable[Cell], lines: Mapping[str, Line]) -> float:
    """The CPU seconds that `cells` are likely to take; 0 while nothing is known."""
    paces = [_paces(lines.values(), likeness) for likeness in _LIKENESS]
    return sum(_steps(cell) * _pace(cell, paces) for cell in cells)


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


def _pace(cell: Cell, paces: Iterable[Mapping[Hashable, float]]) -> float:
    known = (by_kind.get(likeness(cell)) for likeness, by_kind in zip(_LIKENESS, paces, strict=True))
    return next((pace for pace in known if pace is not None), 0.0)


def _steps(cell: Cell) -> int:
    return cell.budget.steps * len(cell.tasks)

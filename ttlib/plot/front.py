"""Error against parameters: which choices no other beats in both."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from matplotlib.axes import Axes

from ttlib.errors import BackendError, ShapeError
from ttlib.plot.labels import Label, Rectangle, place
from ttlib.plot.style import COLOURS, INK, MARKERS, axes, check_numbers, dress, name_ticks, set_scale

# Two numbers and perhaps a text: parameters, error, label.
Point: TypeAlias = Sequence[Any]

_MOST_LABELS = 18
_MANY = 40  # points that leave no room for large dots


class ParetoRow(NamedTuple):
    """One point of a series, and whether no other point of the series is as small and as exact."""

    series: str
    parameters: float
    error: float
    label: str
    on_front: bool


def pareto_rows(points: Iterable[Point] | Mapping[str, Iterable[Point]], /) -> list[ParetoRow]:
    """Return what `pareto` draws: the points of each series, by parameters and then by error.

    >>> from ttlib.plot import pareto_rows
    >>> [(row.parameters, row.on_front) for row in pareto_rows([(10, 0.5), (20, 0.1), (30, 0.2)])]
    [(10.0, True), (20.0, True), (30.0, False)]
    """
    series = points if isinstance(points, Mapping) else {"": points}
    rows = [row for name, own in series.items() for row in _of_series(str(name), own)]
    if not rows:
        msg = f"a Pareto front needs at least one point (parameters, error), got {points!r:.80}"
        raise ShapeError(msg)
    return rows


def pareto(points: Iterable[Point] | Mapping[str, Iterable[Point]], /, *, ax: Axes | None = None) -> Axes:
    """Draw errors against numbers of parameters, with a staircase along the points that no other one beats.

    >>> from ttlib.plot import pareto
    >>> ax = pareto({"SVD": [(8_000, 0.3), (16_000, 0.1)], "TT": [(2_000, 0.3, "rank 4"), (5_000, 0.08, "rank 8")]})
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('parameters', 'relative error')

    Args:
        points: (parameters, error) or (parameters, error, label) each, or a mapping of names to such series.
        ax: draw here instead of into a new figure.

    Each series has a front of its own; what is not on it is faint.  Labels are written beside the points of the
    fronts, at most eighteen, evenly chosen, and beside the others while there is room for all.  Both axes are
    logarithmic; an error of zero is at the tick 0.

    Raises ShapeError for no points or points of another length, BackendError for what are no numbers, NonFiniteError
    for NaN and infinities, ValueError for negative numbers.
    """
    rows = pareto_rows(points)
    ax = axes(ax)
    set_scale(ax, "x", [row.parameters for row in rows])
    set_scale(ax, "y", [row.error for row in rows])
    labels: list[Label] = []
    obstacles: list[Rectangle] = []
    names = list(dict.fromkeys(row.series for row in rows))
    for number, name in enumerate(names):
        own = [row for row in rows if row.series == name]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        _draw(ax, name, own, colour, marker)
        labels += _labels(own, colour if len(names) > 1 else INK, _MOST_LABELS // len(names))
        obstacles += _boxes(own)
    dress(ax, xlabel="parameters", ylabel="relative error")
    ax.margins(x=0.12, y=0.12)
    ax.autoscale_view()
    name_ticks(ax.xaxis)
    name_ticks(ax.yaxis)
    place(ax, labels, obstacles)
    return ax


def _draw(ax: Axes, name: str, rows: list[ParetoRow], colour: str, marker: str) -> None:
    front = [row for row in rows if row.on_front]
    beaten = [row for row in rows if not row.on_front]
    look: dict[str, Any] = {"color": colour, "marker": marker}
    ax.plot(
        [row.parameters for row in beaten],
        [row.error for row in beaten],
        **look | {"linestyle": "", "markersize": _dot(beaten), "alpha": 0.25, "markeredgewidth": 0},
    )
    ax.plot(
        [row.parameters for row in front],
        [row.error for row in front],
        label=name or "Pareto front",
        **look | {"linewidth": 1.0, "markersize": _dot(front), "drawstyle": "steps-post"},
    )


def _dot(rows: Sequence[ParetoRow]) -> int:
    return 5 if len(rows) <= _MANY else 3


def _labels(rows: list[ParetoRow], colour: str, most: int) -> list[Label]:
    """The texts of a series: its name at its most exact point, and what its points are called."""
    front = [row for row in rows if row.on_front]
    named = [row for row in rows if row.label]
    if len(named) > most:
        named = _spread([row for row in front if row.label], most)
    texts = {row: row.label for row in named}
    if front[-1].series:
        last = front[-1]
        texts[last] = f"{last.series}, {texts[last]}" if last in texts else last.series
    return [Label(text, row.parameters, row.error, colour) for row, text in texts.items()]


def _spread(rows: list[ParetoRow], most: int) -> list[ParetoRow]:
    """Pick so many, evenly, with both ends."""
    if len(rows) <= most:
        return rows
    last = len(rows) - 1
    return [rows[round(pick * last / max(most - 1, 1))] for pick in range(most)]


def _boxes(rows: list[ParetoRow]) -> list[Rectangle]:
    dots = [(row.parameters, row.error, row.parameters, row.error) for row in rows]
    stairs = [
        edge
        for before, after in pairwise(row for row in rows if row.on_front)
        for edge in (
            (before.parameters, before.error, after.parameters, before.error),
            (after.parameters, before.error, after.parameters, after.error),
        )
    ]
    return dots + stairs


def _of_series(name: str, points: Iterable[Point]) -> list[ParetoRow]:
    where = f"series {name!r}" if name else "points"
    rows = [_row(name, f"point {number} of {where}", point) for number, point in enumerate(_each(points, where))]
    rows.sort(key=operator.attrgetter("parameters", "error"))
    best: float | None = None
    for at, row in enumerate(rows):
        if best is None or row.error < best:
            best, rows[at] = row.error, row._replace(on_front=True)
    return rows


def _each(points: Iterable[Point], where: str) -> Iterable[Point]:
    if isinstance(points, str) or not isinstance(points, Iterable):
        msg = f"{where} must be an iterable of (parameters, error) or (parameters, error, label), got {points!r:.60}"
        raise BackendError(msg)
    return points


def _row(series: str, where: str, point: Point) -> ParetoRow:
    values = tuple(point) if isinstance(point, Iterable) and not isinstance(point, str) else ()
    if len(values) not in {2, 3}:
        msg = f"{where} must be (parameters, error) or (parameters, error, label), got {point!r:.60}"
        raise ShapeError(msg)
    parameters, error = check_numbers([values[0], values[1]], name=where)
    label = "" if len(values) < 3 or values[2] is None else str(values[2])
    return ParetoRow(series, float(parameters), float(error), label, on_front=False)

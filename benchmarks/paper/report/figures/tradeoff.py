"""What a method costs beside what it gives: scores against trained parameters, and bytes on the disk."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FixedLocator

from benchmarks.paper.report.aggregate import Sample, Study
from benchmarks.paper.report.figures.absent import blank
from benchmarks.paper.report.figures.style import FAINT, INK, PALE, look
from benchmarks.paper.report.wording import described, title
from ttlib.plot.labels import Label, place

_FEWEST = 1_000  # parameters: below, the axis is linear


@dataclass(frozen=True, slots=True)
class Point:
    """A method as a point of the plane: the fewer parameters and the higher the score, the better."""

    name: str
    method: str
    parameters: int
    score: Sample

    @property
    def mean(self) -> float:
        """The mean score, which all points have."""
        return self.score.mean or 0.0


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats or equals in both, from few parameters to many.

    >>> [own.name for own in front([Point("a", "", 9, Sample({0: 80.0})), Point("b", "", 5, Sample({0: 80.0}))])]
    ['b']
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda own: (own.parameters, -own.mean)):
        if not best or point.mean > best[-1].mean:
            best.append(point)
    return best


def pareto(study: Study, *, ax: Axes) -> Axes:
    """The paper's Figure 1 for one model: the average score over the tasks against what is trained beside the head.

    The head is the same for all; most methods train so little beside it that with it they would stand in one place.
    """
    points = _points(study)
    if not points:
        return blank(ax, study, "no method has a score on every task yet")
    ax.set_xscale("symlog", linthresh=_FEWEST, linscale=0.4)  # the head alone trains nothing beside it
    ax.xaxis.set_major_locator(FixedLocator([0, *(_FEWEST * 10**power for power in range(9))]))
    best = front(points)
    most = max(point.parameters for point in points)
    corners = [*((own.parameters, own.mean) for own in best), (most, best[-1].mean)]
    ax.plot(*zip(*corners, strict=True), drawstyle="steps-post", color=PALE, linewidth=1.0, label="Pareto front")
    for own in points:
        marks = look(own.method).artist | {"linestyle": "", "markersize": 7}
        ax.errorbar(own.parameters, own.mean, yerr=own.score.std, elinewidth=1.0, capsize=2, **marks)
    if any(look(own.method).hollow for own in points):
        ax.plot([], [], linestyle="", marker="o", markerfacecolor="white", markeredgecolor=INK, label="control")
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set(xlabel=f"trained parameters beside the head, norms included{_left_out(study, points)}")
    ax.set(ylabel="average score (%)")
    ax.margins(x=0.08, y=0.12)
    labels = [Label(own.name, own.parameters, own.mean) for own in points]
    place(ax, labels, [*_whiskers(points), *_stairs(corners)])
    return ax


def _points(study: Study) -> list[Point]:
    found = []
    for variant in study.variants:
        trained, sample = study.beside_head(variant), study.mean(variant)
        if trained is not None and sample.mean is not None:
            found.append(Point(described(variant), variant.method, trained, sample))
    return found


def _left_out(study: Study, points: Sequence[Point]) -> str:
    """The methods with runs but without an average: an average is over all tasks, or is another number."""
    shown = {own.name for own in points}
    names = [described(own) for own in study.variants if any(runs.done for runs in study.row(own))]
    absent = [name for name in names if name not in shown]
    return "\n" + textwrap.fill(f"no seed with a score on every task: {', '.join(absent)}", 110) if absent else ""


def _whiskers(points: Sequence[Point]) -> list[tuple[float, float, float, float]]:
    spreads = [(own, own.score.std or 0.0) for own in points]
    return [(own.parameters, own.mean - std, own.parameters, own.mean + std) for own, std in spreads]


def _stairs(corners: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    steps = list(pairwise(corners))
    flat = [(x, y, after, y) for (x, y), (after, _) in steps]
    return flat + [(after, y, after, above) for (_, y), (after, above) in steps]


def storage(saved: Mapping[str, int], *, ax: Axes) -> Axes:
    """The paper's Figure 5: the bytes of what is saved of each method, on an axis where a step is a factor of ten."""
    order = sorted(saved, key=saved.__getitem__)
    rows = np.arange(len(order))
    ax.set_xscale("log")
    exact = EngFormatter("B", places=1)
    for row, method in zip(rows, order, strict=True):
        size = saved[method]
        ax.plot(size, row, **look(method).artist)
        ax.annotate(exact(size), (size, row), (8, 0), textcoords="offset points", va="center", fontsize=9)
    low, high = min(saved.values()) / 3, max(saved.values())
    ax.hlines(rows, low, [saved[method] for method in order], color=FAINT, linewidth=1.2, zorder=0)
    ax.set_yticks(rows, [title(method) for method in order])
    ax.set(xlim=(low, high * (high / low) ** 0.3), ylim=(-0.6, len(order) - 0.4))
    ax.xaxis.set_major_formatter(EngFormatter("B"))
    ax.set(xlabel="saved file")
    ax.grid(visible=False)
    return ax

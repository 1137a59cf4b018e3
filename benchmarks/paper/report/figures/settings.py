"""What the settings of a method do to its score: tensor ranks and tensor shapes."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from benchmarks.paper.report.aggregate import Runs, Sample, Study
from benchmarks.paper.report.figures.absent import blank
from benchmarks.paper.report.figures.steps import band
from benchmarks.paper.report.figures.style import look
from benchmarks.paper.report.wording import effective, setting_value, title


def ranks(study: Study, *, ax: Axes) -> Axes:
    """The paper's Table 6 for one task: the score against the tensor rank, a line for each method."""
    lines: dict[str, dict[float, Sample]] = {}
    for own in sorted(study.runs, key=_rank):
        if own.score().mean is not None:
            lines.setdefault(own.variant.method, {})[_rank(own)] = own.score()
    if not lines:
        return blank(ax, study)
    for method, line in lines.items():
        band(ax, line, look(method), title(method))
    ax.set_xscale("log")
    ticks = sorted({rank for line in lines.values() for rank in line})
    ax.set_xticks(ticks, [f"{rank:g}" for rank in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="tensor rank", ylabel="score (%)")
    return ax


def shapes(study: Study, *, ax: Axes) -> Axes:
    """The paper's Table 7 for one task: the score by tensor shape, a row for each, the method's own shape first.

    Dots, not bars: a bar would have to begin at zero, where nothing could be told apart.
    """
    if not any(own.finished for own in study.runs):
        return blank(ax, study)
    rows = [own for method in dict.fromkeys(map(_method, study.runs)) for own in study.runs if _method(own) == method]
    for place, own in enumerate(rows):
        sample = own.score()
        if sample.mean is not None:
            marks = look(_method(own)).artist | {"linestyle": ""}
            ax.errorbar(
                sample.mean, place, xerr=sample.std, capsize=3, elinewidth=1.0, label=title(_method(own)), **marks
            )
    ax.set_yticks(range(len(rows)), [_shape(own) for own in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="score (%)")
    ax.grid(visible=False, axis="y")
    return ax


def _method(runs: Runs) -> str:
    return runs.variant.method


def _rank(runs: Runs) -> float:
    return float(effective(runs.variant, "tensor_rank"))


def _shape(runs: Runs) -> str:
    shape = effective(runs.variant, "tensor_shape")
    return "proposed by the search" if shape is None else setting_value(shape).replace("], ", "]\n")  # a matrix a line

"""What stands for runs that are still to be made, that diverged, or that left no score."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes

from benchmarks.paper.report.aggregate import Runs, Study
from benchmarks.paper.report.figures.style import PALE
from benchmarks.paper.report.wording import described, task

_TIE = "\N{NO-BREAK SPACE}"


def blank(ax: Axes, study: Study, otherwise: str = "no run has finished with a score") -> Axes:
    """An axes that says why it is empty."""
    ax.set_axis_off()
    said = textwrap.fill(otherwise, 30) if study.done else "not run"
    ax.text(0.5, 0.5, said, transform=ax.transAxes, ha="center", va="center", color=PALE, fontsize=12)
    return ax


def missing(study: Study) -> str:
    """The runs that a figure of the study cannot show, in words; nothing where it shows all or its panels are blank."""
    if study.done == 0 or (study.done == study.planned and not study.diverged):
        return ""
    rows = {described(variant): study.row(variant) for variant in study.variants}
    notes = {
        "": [study.progress[0].upper() + study.progress[1:]],
        "Diverged: ": [said for name, row in rows.items() if (said := _diverged(name, row))],
        "Not run: ": [said for name, row in rows.items() if (said := _not_run(name, row))],
    }
    return " ".join(f"{begin}{'; '.join(said)}." for begin, said in notes.items() if said)


def _diverged(name: str, row: Sequence[Runs]) -> str:
    count, planned = sum(own.diverged for own in row), sum(len(own.outcomes) for own in row)
    return f"{name} ({count}{_TIE}of{_TIE}{planned})" if count else ""


def _not_run(name: str, row: Sequence[Runs]) -> str:
    """A variant without a single run, or its tasks without one."""
    left = [" > ".join(map(task, own.tasks)) for own in row if own.done == 0]
    if not left:
        return ""
    return name if len(left) == len(row) else f"{name} on {', '.join(left)}"

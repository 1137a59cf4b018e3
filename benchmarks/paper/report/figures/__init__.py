"""The study's figures, written beside docs/evidence.md: from the lines of results alone, as its tables are."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.paper.profile import Profile
from benchmarks.paper.report.aggregate import Evidence, Runs, Study
from benchmarks.paper.report.figures.absent import missing
from benchmarks.paper.report.figures.settings import ranks, shapes
from benchmarks.paper.report.figures.steps import evaluation_loss, forgetting, initialisation
from benchmarks.paper.report.figures.style import PALE, STYLE, WIDTH
from benchmarks.paper.report.figures.tradeoff import pareto, storage
from benchmarks.paper.report.wording import column, model, task, title
from benchmarks.paper.results import Line
from ttlib._files import replacing

__all__ = ["draw_all", "evaluation_loss", "forgetting", "initialisation", "pareto", "ranks", "shapes", "storage"]

Tasks = tuple[str, ...]

_LETTERS = 128  # of a note that fit in a line
_ENTRIES = 5  # of a legend in a row


@dataclass(frozen=True, slots=True)
class Panel:
    """A title, and what draws into the axes under it."""

    title: str
    draw: Callable[..., Axes]


@dataclass(frozen=True, slots=True)
class Layout:
    """How panels stand on a sheet.

    Attributes:
        height: of a row, in inches.
        columns: panels in a row, at most.
        shares_scale: whether all panels have the same scores or losses on their vertical axes.
    """

    height: float
    columns: int = 2
    shares_scale: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A figure of one study: its name in the profile, its panels, and how these stand."""

    study: str
    panels: Callable[[Study], Iterable[Panel]]
    layout: Layout


def draw_all(
    profile: Profile, lines: Mapping[str, Line], folder: Path, costs: Mapping[str, Any] | None = None
) -> dict[str, Path]:
    """Write a figure for each study of the profile that has one and one for *costs*; return their paths by name.

    What has not been run or diverged is said in the figure.  The same lines give the same bytes, and a file is replaced
    at once.
    """
    evidence = Evidence(profile, lines, costs)
    sheets = {
        name: sheet(plan.panels(study), plan.layout, missing(study))
        for name, plan in PLANS.items()
        if (study := evidence.study(plan.study)).planned
    }
    if costs and costs["costs"]:
        sheets["storage"] = sheet(_by_saved_model(costs["costs"]), STORAGE)
    return {name: _save(figure, folder / f"{name}.svg") for name, figure in sheets.items()}


def sheet(panels: Iterable[Panel], layout: Layout, note: str = "") -> Figure:
    """All panels of a figure, a note above them, and one legend for all below."""
    shown = list(panels)
    columns = min(layout.columns, len(shown))
    rows = -(-len(shown) // columns)
    with matplotlib.style.context(dict(STYLE), after_reset=True):
        figure = Figure(figsize=(WIDTH, layout.height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        if note:
            figure.suptitle(textwrap.fill(note, _LETTERS), x=0.01, ha="left", fontsize=9, color=PALE)
        grid = list(figure.subplots(rows, columns, squeeze=False, sharey=layout.shares_scale).flat)
        for panel, ax in zip(shown, grid, strict=False):
            ax.set_title(panel.title)
            panel.draw(ax=ax)
            if layout.shares_scale and not ax.get_subplotspec().is_first_col():
                ax.set_ylabel("")
        for ax in grid[len(shown) :]:
            ax.remove()
        _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    pairs = [pair for ax in figure.axes for pair in zip(*ax.get_legend_handles_labels(), strict=True)]
    entries = {name: handle for handle, name in pairs}
    if entries:
        rows = -(-len(entries) // _ENTRIES)
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=-(-len(entries) // rows))


def _parts(study: Study, key: Callable[[Runs], Hashable]) -> Iterator[tuple[Runs, Study]]:
    """The study cut into ones of a model, a task and so on: the first runs of each, and the whole part."""
    parts: dict[Hashable, list[Runs]] = {}
    for own in study.runs:
        parts.setdefault(key(own), []).append(own)
    for runs in parts.values():
        yield runs[0], Study(study.name, tuple(runs))


def _by_model(draw: Callable[..., Axes], study: Study) -> Iterator[Panel]:
    for own, part in _parts(study, lambda runs: runs.variant.model):
        yield Panel(model(own.variant.model), partial(draw, part))


def _by_task(draw: Callable[..., Axes], study: Study, said: Callable[[Tasks], str] = column) -> Iterator[Panel]:
    for own, part in _parts(study, lambda runs: (runs.variant.model, runs.tasks)):
        yield Panel(f"{said(own.tasks)}, {model(own.variant.model)}", partial(draw, part))


def _by_method(draw: Callable[..., Axes], study: Study) -> Iterator[Panel]:
    for own, part in _parts(study, lambda runs: (runs.variant.model, runs.tasks, runs.variant.method)):
        place = f"{_without_metric(own.tasks)}, {model(own.variant.model)}"
        yield Panel(f"{title(own.variant.method)} on {place}", partial(draw, part))


def _without_metric(tasks: Tasks) -> str:
    return " > ".join(map(task, tasks))


def _by_stage(draw: Callable[..., Axes], study: Study) -> Iterator[Panel]:
    for own, part in _parts(study, lambda runs: (runs.variant.model, runs.tasks)):
        for name in own.tasks:
            yield Panel(f"{column((name,))}, {model(own.variant.model)}", partial(draw, part, name))


def _by_saved_model(costs: Iterable[Mapping[str, Any]]) -> Iterator[Panel]:
    saved: dict[str, dict[str, int]] = {}
    for row in costs:
        saved.setdefault(row["model"], {})[row["method"]] = row["file_bytes"]
    for name, sizes in saved.items():
        yield Panel(model(name), partial(storage, sizes))


PLANS: Mapping[str, Plan] = {
    "pareto": Plan("t1", partial(_by_model, pareto), Layout(5.6, columns=1)),
    "pareto_language": Plan("lm", partial(_by_model, pareto), Layout(5.0, columns=1)),
    "curves": Plan("curves", partial(_by_task, evaluation_loss, said=_without_metric), Layout(4.0)),
    "ranks": Plan("t6", partial(_by_task, ranks), Layout(3.8)),
    "shapes": Plan("t7", partial(_by_task, shapes), Layout(2.8, columns=1)),
    "initialisation": Plan("init", partial(_by_method, initialisation), Layout(4.0, shares_scale=True)),
    "forgetting": Plan("t4", partial(_by_stage, forgetting), Layout(4.0, columns=3, shares_scale=True)),
}
STORAGE = Layout(4.4)


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as temporary, matplotlib.style.context(dict(STYLE), after_reset=True):
        figure.savefig(temporary, metadata={"Date": None, "Creator": None})  # the same bytes on another day
    return path

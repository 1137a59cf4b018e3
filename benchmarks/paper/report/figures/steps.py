"""What changes over training: evaluation loss, the first losses from different starts, scores along a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.paper.report import wording
from benchmarks.paper.report.aggregate import Outcome, Runs, Sample, Study
from benchmarks.paper.report.figures.absent import blank
from benchmarks.paper.report.figures.style import PALE, VARIANT_LOOKS, Look, look
from benchmarks.paper.report.wording import described, effective, setting_value

_EARLY = 0.5  # of the steps; in what follows, lines that have met only cross one another
_DODGE = 0.07  # of the way from one stage to the next: whiskers of two methods do not cover one another


def evaluation_loss(study: Study, *, ax: Axes) -> Axes:
    """The paper's Figure 4 for one task: the evaluation loss, mean and standard deviation over seeds."""
    lines = [(own, line) for own in study.runs if (line := _along(own, "curve"))]
    if not lines:
        return blank(ax, study)
    for own, line in lines:
        band(ax, line, look(own.variant.method), described(own.variant))
    ax.set(xlabel="optimiser steps", ylabel="evaluation loss")
    return ax


def initialisation(study: Study, *, ax: Axes) -> Axes:
    """The starts of one method on one task: the training loss above that of the method's default, batch by batch.

    Runs of one seed see the same rows in the same order, so what is left of their difference is the start's alone.
    """
    default = next((own for own in study.runs if not own.variant.options), None)
    reference = _along(default, "losses") if default else {}
    if not reference:
        return blank(ax, study, "nothing to compare with: no run with the default start has finished")
    early = {step: loss for step, loss in reference.items() if step <= _EARLY * max(reference)}
    alone = []
    for own, style in zip(study.runs, cycle(VARIANT_LOOKS), strict=False):
        line = _along(own, "losses")
        gaps = {step: line[step] - base for step, base in early.items() if step in line}
        band(ax, {step: gap for step, gap in gaps.items() if gap.by_seed}, style, _start(own))
        if own.finished and not default.finished.keys() & own.finished.keys():
            alone.append(_start(own))
    left_out = f"\nno seed in common with {_start(default)}: {', '.join(alone)}" if alone else ""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel=f"optimiser steps{left_out}", ylabel=f"training loss above that of {_start(default)}")
    return ax


def forgetting(study: Study, task: str, *, ax: Axes) -> Axes:
    """One task of a sequence: its score after each task that was learnt."""
    found = [own for own in study.runs if own.finished]
    if not found:
        return blank(ax, study)
    tasks = found[0].tasks
    learnt = tasks.index(task)
    stages = np.arange(learnt, len(tasks))  # before that it was not scored
    for number, own in enumerate(found):
        samples = [own.sample(_after(stage, task)) for stage in stages]
        ax.errorbar(
            stages + _DODGE * (number - (len(found) - 1) / 2),
            [sample.mean for sample in samples],
            yerr=np.transpose([_whiskers(sample) for sample in samples]),
            label=described(own.variant),
            elinewidth=1.0,
            **look(own.variant.method).artist,
        )
    ax.axvspan(learnt - 0.5, learnt + 0.5, color="#f0f0f0", zorder=0)
    where = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "bottom"}
    ax.text(learnt, 0.02, "learnt", color=PALE, fontsize=9, **where)
    ax.set(
        xticks=range(len(tasks)),
        xticklabels=[wording.task(name) for name in tasks],
        xlim=(-0.5, len(tasks) - 0.5),
        xlabel="last task learnt",
        ylabel="score (%)",
    )
    ax.grid(visible=False, axis="x")
    return ax


def band(ax: Axes, line: Mapping[float, Sample], style: Look, label: str) -> None:
    """Means as a line and one standard deviation to either side of it as a band."""
    where = np.array(list(line))
    means = np.array([sample.mean for sample in line.values()])
    spread = np.array([_spread(sample) for sample in line.values()])
    ax.plot(where, means, label=label, **style.artist)
    ax.fill_between(where, means - spread, means + spread, color=style.colour, alpha=0.15, linewidth=0)


def _spread(sample: Sample) -> float:
    """The standard deviation; not a number, which is not drawn, of a single seed."""
    return np.nan if sample.std is None else sample.std


def _whiskers(sample: Sample) -> tuple[float, float]:
    """The deviation below and above; not beyond 0 and 100, where F1 that is 0 for one seed and 80 for another lies."""
    mean, spread = sample.mean or 0.0, _spread(sample)
    return min(spread, mean) if mean > 0 else spread, min(spread, 100 - mean)


def _start(runs: Runs) -> str:
    return setting_value(effective(runs.variant, "init_weights"))


def _along(runs: Runs, kept: Literal["curve", "losses"]) -> dict[float, Sample]:
    """A loss by step, where all finished seeds have it: the mean over fewer would jump for that reason alone."""
    steps = sorted({step for own in runs.finished.values() for step, *_ in own[kept]})
    samples = {step: runs.sample(lambda own, step=step: _at(own[kept], step)) for step in steps}
    return {step: sample for step, sample in samples.items() if sample.by_seed.keys() == runs.finished.keys()}


def _at(points: Iterable[Sequence[float | None]], step: float) -> float | None:
    return next((loss for at, loss, *_ in points if at == step), None)


def _after(stage: int, task: str) -> Callable[[Outcome], float]:
    return lambda outcome: 100 * outcome["after_each"][stage][task]

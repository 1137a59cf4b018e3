"""Numbers of one run beyond its score: what was forgotten, how far a loss climbed, how it began."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.paper.report.aggregate import Outcome, Runs, Sample


def forgetting(runs: Runs, task: str | None = None) -> Sample:
    """How many points a task of a sequence lost since it was learnt; without a name the mean over the earlier ones."""
    names = runs.tasks[:-1] if task is None else (task,)

    def lost(outcome: Outcome) -> float | None:
        stages = outcome["after_each"]
        if len(stages) < len(runs.tasks):
            return None
        return 100 * statistics.fmean(stages[runs.tasks.index(name)][name] - stages[-1][name] for name in names)

    return runs.sample(lost)


def sequence_mean(runs: Runs) -> Sample:
    """The mean score over all tasks of a sequence after the last one."""
    return runs.sample(lambda outcome: 100 * statistics.fmean(outcome["scores"][name] for name in runs.tasks))


def climb(runs: Runs) -> Sample:
    """How far the evaluation loss stands above its lowest point at the end of training."""
    return runs.sample(_of_curve(1, lambda losses: losses[-1] - min(losses)))


def chosen_over_last(runs: Runs) -> Sample:
    """How many points the best evaluation on the way is above the last one."""
    return runs.sample(_of_curve(2, lambda scores: 100 * (max(scores) - scores[-1])))


def _of_curve(column: int, number: Callable[[list[float]], float]) -> Callable[[Outcome], float | None]:
    def read(outcome: Outcome) -> float | None:
        found = [point[column] for point in outcome["curve"] if point[column] is not None]
        return number(found) if found else None

    return read


def first_loss(outcome: Outcome) -> float | None:
    """The training loss of the first batch, before any step."""
    return outcome["losses"][0][1] if outcome["losses"] else None


def early_loss(outcome: Outcome) -> float | None:
    """The mean training loss over the first fifth of the steps."""
    losses = outcome["losses"]
    early = [loss for step, loss in losses if step <= max(losses[0][0], losses[-1][0] / 5)]
    return statistics.fmean(early) if early else None


def final_loss(outcome: Outcome) -> float | None:
    """The evaluation loss at the end."""
    loss: float | None = outcome["loss"]
    return loss

"""From single runs to the cells of a table: seeds together, in percent; what diverged or was not run stays in sight."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from benchmarks.paper.cells import Cell, Value, options
from benchmarks.paper.profile import Profile, picks, resolve
from benchmarks.paper.results import Line

Outcome = Mapping[str, Any]
Options = tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Sample:
    """One number by seed.

    >>> f"{Sample({0: 90.0, 1: 92.0}, planned=frozenset({0, 1, 2}), diverged=frozenset({2})):.1f}"
    '91.0 ± 1.4 (1 of 3 diverged)'

    Attributes:
        by_seed: the number for each seed that has one.
        planned: the seeds that there are to be.
        diverged: those that ended in a loss that is no number.
    """

    by_seed: Mapping[int, float] = field(default_factory=dict)
    planned: frozenset[int] = frozenset()
    diverged: frozenset[int] = frozenset()

    @property
    def mean(self) -> float | None:
        """The mean over the seeds that have a number; None where none has."""
        return statistics.fmean(self.by_seed.values()) if self.by_seed else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation; None of fewer than two seeds."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    @property
    def is_complete(self) -> bool:
        """Whether no planned seed is still to be run, and at least one gave a number."""
        return bool(self.by_seed) and self.planned <= self.by_seed.keys() | self.diverged

    def __sub__(self, other: Sample) -> Sample:
        """The difference seed by seed: both saw the same rows in the same order."""
        return combine((self, other), lambda left, right: left - right)

    def ahead_of(self, other: Sample) -> bool:
        """Whether the mean is higher by more than one standard deviation, the larger one of the two.

        Single seeds are ahead of nothing: they do not say how far another seed would be from them.
        """
        if self.mean is None or other.mean is None or self.std is None or other.std is None:
            return False
        return self.mean - other.mean > max(self.std, other.std)

    def __format__(self, spec: str) -> str:
        """Mean ± standard deviation, and what is missing."""
        if not self.planned:
            return ""  # the table has no such cell
        text = "—" if self.mean is None else format(self.mean, spec)
        if self.std is not None:
            text += f" ± {format(self.std, spec)}"
        notes = [f"{len(self.diverged)} of {len(self.planned)} diverged"] if self.diverged else []
        if self.by_seed and not self.is_complete:
            notes.append(f"{len(self.by_seed)} of {len(self.planned)} seeds")
        return f"{text} ({', '.join(notes)})" if notes else text


def combine(samples: Sequence[Sample], function: Callable[..., float]) -> Sample:
    """Apply a function to the numbers of the seeds that all samples have."""
    shared = set.intersection(*(set(sample.by_seed) for sample in samples)) if samples else set()
    return Sample(
        {seed: function(*(sample.by_seed[seed] for sample in samples)) for seed in sorted(shared)},
        planned=frozenset().union(*(sample.planned for sample in samples)),
        diverged=frozenset().union(*(sample.diverged for sample in samples)),
    )


def average(samples: Sequence[Sample]) -> Sample:
    """The mean over tasks, seed by seed: of the seeds that have a number on every task."""
    return combine(samples, lambda *values: statistics.fmean(values))


@dataclass(frozen=True, slots=True)
class Variant:
    """A row of a table: a model under a method with its settings."""

    model: str
    method: str
    options: Options = ()

    def setting(self, name: str, default: Value = None) -> Value:
        """The value of one option."""
        return dict(self.options).get(name, default)


@dataclass(frozen=True)
class Runs:
    """One cell of a table: the same run for every seed, and what came of it; None for what has not been run."""

    variant: Variant
    tasks: tuple[str, ...]
    outcomes: Mapping[int, Outcome | None] = field(default_factory=dict)

    @property
    def finished(self) -> dict[int, Outcome]:
        """The outcomes that have scores."""
        return {seed: own for seed, own in self.outcomes.items() if own is not None and own["status"] == "finished"}

    @property
    def done(self) -> int:
        """How many runs ended, in a score or not."""
        return sum(own is not None for own in self.outcomes.values())

    @property
    def diverged(self) -> int:
        """How many runs ended in a loss that is no number."""
        return self.done - len(self.finished)

    def sample(self, number: Callable[[Outcome], float | None]) -> Sample:
        """One number of each finished run; a run without it counts as one that is not there."""
        found = {seed: number(own) for seed, own in self.finished.items()}
        return Sample(
            {seed: value for seed, value in found.items() if value is not None},
            planned=frozenset(self.outcomes),
            diverged=frozenset(
                seed for seed, own in self.outcomes.items() if own is not None and own["status"] == "diverged"
            ),
        )

    def score(self, task: str | None = None) -> Sample:
        """The score in percent after all training, on the only task or on one of several."""
        name = task or self.tasks[-1]
        return self.sample(lambda outcome: _percent(outcome["scores"].get(name)))

    def parameters(self, kind: str) -> int | None:
        """How many parameters of a kind ("adapters", "norms", "head", "body", "total") are trained."""
        known = [own["parameters"][kind] for own in self.outcomes.values() if own is not None]
        return known[0] if known else None


@dataclass(frozen=True)
class Study:
    """All runs of one table of the paper."""

    name: str
    runs: tuple[Runs, ...] = ()

    @property
    def planned(self) -> int:
        """How many runs there are to be."""
        return sum(len(own.outcomes) for own in self.runs)

    @property
    def done(self) -> int:
        """How many runs ended."""
        return sum(own.done for own in self.runs)

    @property
    def diverged(self) -> int:
        """How many runs ended in a loss that is no number."""
        return sum(own.diverged for own in self.runs)

    @property
    def progress(self) -> str:
        """How much of it is there, in words."""
        said = f"{self.done} of {self.planned} runs done"
        return f"{said}, {self.diverged} of them diverged" if self.diverged else said

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The rows, in the order of the profile."""
        return tuple(dict.fromkeys(own.variant for own in self.runs))

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods, in the order of the profile."""
        return tuple(dict.fromkeys(variant.method for variant in self.variants))

    @cached_property
    def tasks(self) -> tuple[tuple[str, ...], ...]:
        """The columns, in the order of the profile."""
        return tuple(dict.fromkeys(own.tasks for own in self.runs))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """All seeds of the study."""
        return tuple(sorted({seed for own in self.runs for seed in own.outcomes}))

    @cached_property
    def _found(self) -> dict[tuple[Variant, tuple[str, ...]], Runs]:
        return {(own.variant, own.tasks): own for own in self.runs}

    def at(self, variant: Variant, tasks: tuple[str, ...]) -> Runs:
        """The runs of a row and a column; without outcomes where the profile has none."""
        return self._found.get((variant, tasks)) or Runs(variant, tasks)

    def row(self, variant: Variant) -> tuple[Runs, ...]:
        """The runs of a row in all columns that it has."""
        return tuple(own for own in self.runs if own.variant == variant)

    def parameters(self, variant: Variant, kind: str) -> int | None:
        """The most that a row trains of a kind on any task: a head for two classes has more than one for a number."""
        known = [own.parameters(kind) for own in self.row(variant)]
        return max((number for number in known if number is not None), default=None)

    def beside_head(self, variant: Variant) -> int | None:
        """What a row trains beside the head, which is the same for all methods."""
        parts = [self.parameters(variant, kind) for kind in ("adapters", "norms", "body")]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def find(self, method: str, **settings: Any) -> Variant | None:
        """The row of a method with exactly these settings."""
        wanted = options(**settings)
        return next((own for own in self.variants if own.method == method and own.options == wanted), None)

    def mean(self, variant: Variant | None, over: Iterable[tuple[str, ...]] | None = None) -> Sample:
        """The average over some columns of the study (None: all); empty where a column is empty."""
        if variant is None:
            return Sample()
        return average([self.at(variant, tasks).score() for tasks in (self.tasks if over is None else over)])


@dataclass(frozen=True)
class Evidence:
    """Everything that the page is written from."""

    profile: Profile
    lines: Mapping[str, Line]
    costs: Mapping[str, Any] | None = None

    @cached_property
    def studies(self) -> dict[str, Study]:
        """The studies of the profile with what was run of them."""
        outcomes = {key: line.outcome for key, line in self.lines.items()}
        resolved = resolve(self.profile, self.lines)
        return {name: _study(name, cells, outcomes) for name, cells in resolved.items()}

    @cached_property
    def picks(self) -> dict[str, float]:
        """The learning rate of each "model/method" that has one."""
        return picks(self.profile, self.lines)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of all studies, shared ones once, with the learning rates that are known."""
        return tuple(dict.fromkeys(cell for cells in resolve(self.profile, self.lines).values() for cell in cells))

    def study(self, name: str) -> Study:
        """A study by name, without runs where the profile does not have it."""
        return self.studies.get(name) or Study(name)


def _study(name: str, cells: Iterable[Cell], outcomes: Mapping[str, Outcome]) -> Study:
    together: dict[Cell, dict[int, Outcome | None]] = {}
    for cell in cells:
        plan = replace(cell, seed=0)
        together.setdefault(plan, {})[cell.seed] = outcomes.get(cell.key)
    runs = tuple(
        Runs(Variant(plan.model, plan.method, plan.options), plan.tasks, found) for plan, found in together.items()
    )
    places = {(own.variant, own.tasks) for own in runs}
    if len(places) < len(runs):
        msg = f"study {name!r} has {len(runs)} groups of runs for {len(places)} places of its table; give it one budget"
        raise ValueError(msg)
    return Study(name, runs)


def _percent(score: float | None) -> float | None:
    return None if score is None else 100 * score

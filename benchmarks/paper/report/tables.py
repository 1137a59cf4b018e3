"""The study's tables: methods against tasks, settings against tasks, sequences, starts, learning rates, counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.paper.report.aggregate import Evidence, Options, Outcome, Sample, Study, Variant
from benchmarks.paper.report.quantities import early_loss, final_loss, first_loss, forgetting, sequence_mean
from benchmarks.paper.report.table import Table, bold, count
from benchmarks.paper.report.wording import (
    column,
    described,
    effective,
    model,
    setting_name,
    setting_value,
    task,
    title,
)

_KINDS = ("adapters", "norms", "head", "body")
_KIND_TITLES = ("adapter", "norms", "head", "rest")


def methods(study: Study) -> Table:
    """Tables 1 to 3: methods, from few trained parameters to many, against tasks."""
    rows = sorted(study.variants, key=lambda variant: _size(study, variant))
    samples = {tasks[-1]: [study.at(variant, tasks).score() for variant in rows] for tasks in study.tasks} | {
        "average": [study.mean(variant) for variant in rows]
    }
    columns = [_marked(own) for own in samples.values()]
    head = ("method", *_KIND_TITLES, *(column(tasks) for tasks in study.tasks), "average")
    return Table(
        head,
        [
            (described(variant), *(count(study.parameters(variant, kind)) for kind in _KINDS), *own)
            for variant, *own in zip(rows, *columns, strict=True)
        ],
    )


def settings(study: Study, names: Sequence[str]) -> Table:
    """Tables 6, 7 and 11: one method with other settings, these in columns of their own."""
    rows = sorted(study.variants, key=lambda variant: (study.methods.index(variant.method), _numbers(variant, names)))
    return Table(
        ("method", *map(setting_name, names), "adapter", "all trained",
         *(column(tasks) for tasks in study.tasks), "average"),
        [
            (
                _without(variant, names),
                *(setting_value(effective(variant, name)) for name in names),
                count(study.parameters(variant, "adapters")),
                count(study.parameters(variant, "total")),
                *(f"{study.at(variant, tasks).score():.1f}" for tasks in study.tasks),
                f"{study.mean(variant):.1f}",
            )
            for variant in rows
        ],
    )  # fmt: skip


def sequences(study: Study) -> Table:
    """Table 4: the score on every task after the last one, and what was lost on the way."""
    rows = study.runs
    tasks = rows[0].tasks if rows else ()
    return Table(
        ("method", *(column((name,)) for name in tasks), "mean", *(f"lost on {task(name)}" for name in tasks[:-1])),
        [
            (
                described(own.variant),
                *(f"{own.score(name):.1f}" for name in tasks),
                f"{sequence_mean(own):.1f}",
                *(f"{forgetting(own, name):.1f}" for name in tasks[:-1]),
            )
            for own in rows
        ],
    )


def starts(study: Study) -> Table:
    """How the cores begin: the loss before the first step, early, and at the end."""
    losses: Sequence[Callable[[Outcome], float | None]] = (first_loss, early_loss, final_loss)
    return Table(
        ("method", "start", "task", "first batch", "first fifth", "evaluation at the end", "score"),
        [
            (
                _without(own.variant, ("init_weights",)),
                setting_value(effective(own.variant, "init_weights")),
                column(own.tasks),
                *(f"{own.sample(number):.3f}" for number in losses),
                f"{own.score():.1f}",
            )
            for own in sorted(study.runs, key=lambda own: study.methods.index(own.variant.method))
        ],
    )


def curves(study: Study) -> Table:
    """Figure 4 in numbers: where the evaluation loss is lowest and where it ends."""
    return Table(
        ("method", "task", "lowest loss", "loss at the end", "score at the end"),
        [
            (
                described(own.variant),
                column(own.tasks),
                f"{own.sample(_lowest):.3f}",
                f"{own.sample(final_loss):.3f}",
                f"{own.score():.1f}",
            )
            for own in study.runs
        ],
    )


def _lowest(outcome: Outcome) -> float | None:
    return min((loss for _, loss, _ in outcome["curve"] if loss is not None), default=None)


def rates(evidence: Evidence) -> Table:
    """The learning rate that each method got, by what it was picked on; a star: at the edge of what was tried."""
    picked: dict[tuple[str, str], dict[str, str]] = {}
    for name, cells in evidence.profile.tuning.items():
        own_model, method, *_ = name.split("/")
        on = ", ".join(dict.fromkeys(task(own) for cell in cells for own in cell.tasks))
        grid = {cell.learning_rate for cell in cells if cell.learning_rate is not None}
        rate = evidence.picks.get(name)
        edge = "*" if rate in (min(grid), max(grid)) else ""
        picked.setdefault((own_model, method), {})[on] = "—" if rate is None else f"{rate:g}{edge}"
    places = list(dict.fromkeys(on for row in picked.values() for on in row))
    return Table(
        ("method", "model", *(f"picked on {on}" for on in places)),
        [
            (title(method), model(own_model), *(row.get(on, "") for on in places))
            for (own_model, method), row in picked.items()
        ],
    )


def _size(study: Study, variant: Variant) -> tuple[bool, int]:
    """What a table is ordered by: trained parameters, without those of the head; what was not run comes last."""
    trained = study.beside_head(variant)
    return trained is None, trained or 0


def _marked(samples: Sequence[Sample]) -> list[str]:
    """A column as text: the best in bold, and all that it is not ahead of."""
    known = [sample for sample in samples if sample.mean is not None]
    best = max(known, key=lambda sample: sample.mean or 0.0, default=None)
    return [bold(f"{sample:.1f}") if _shares_first_place(sample, best) else f"{sample:.1f}" for sample in samples]


def _shares_first_place(sample: Sample, best: Sample | None) -> bool:
    return best is not None and best.std is not None and sample.std is not None and not best.ahead_of(sample)


def _numbers(variant: Variant, names: Iterable[str]) -> tuple[float, ...]:
    """Settings that are numbers, in their order; others stay as the profile has them."""
    values = [effective(variant, name) for name in names]
    return tuple(value for value in values if isinstance(value, int | float) and not isinstance(value, bool))


def _without(variant: Variant, names: Iterable[str]) -> str:
    rest: Options = tuple(own for own in variant.options if own[0] not in set(names))
    return described(Variant(variant.model, variant.method, rest))

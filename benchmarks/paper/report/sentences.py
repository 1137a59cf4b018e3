"""What stands under a table: sentences chosen by the numbers, so that they are true whatever these are."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.paper.report.aggregate import Runs, Sample, Study, average
from benchmarks.paper.report.measured import LORETTA, spreads, study_has
from benchmarks.paper.report.quantities import climb, first_loss, forgetting, sequence_mean
from benchmarks.paper.report.wording import column, described, effective, listed, setting_value, task, title


def averages(study: Study) -> Iterator[str]:
    """The extremes of the average, and how far seeds are apart."""
    known = {variant: own for variant in study.variants if (own := study.mean(variant)).mean is not None}
    if known:
        order = sorted(known, key=lambda variant: known[variant].mean or 0.0)
        yield f"Averages go from {known[order[0]]:.1f} ({described(order[0])}) to {known[order[-1]]:.1f} "
        yield f"({described(order[-1])}). "
    if level := [task(own[-1]) for own in study.tasks if _nobody_learns(study, own)]:
        yield f"On {listed(level)} no method is more than one standard deviation ahead of the head alone. "
    deviations = [own.score().std for own in study.runs]
    seen = sorted(std for std in deviations if std is not None)
    if seen:
        yield f"Seeds of one cell differ by {seen[0]:.1f} to {seen[-1]:.1f} points (standard deviation)."


def _nobody_learns(study: Study, tasks: tuple[str, ...]) -> bool:
    """Whether all methods ran on a task, and none did better than the head alone."""
    scores = {variant: study.at(variant, tasks).score() for variant in study.variants}
    control = study.find("head")
    if control is None or not all(score.is_complete for score in scores.values()):
        return False
    return not any(score.ahead_of(scores[control]) for score in scores.values())


def spread(study: Study) -> Iterator[str]:
    """How much the settings of a method matter, beside how much the seed does."""
    for method in LORETTA:
        found = spreads(study, method) if study_has(study, method) else None
        if found:
            widest = max(found, key=found.__getitem__)
            best = max(
                (own for own in study.variants if own.method == method), key=lambda own: study.mean(own).mean or 0.0
            )
            seeds = max(own.score().std or 0.0 for own in study.runs if own.variant.method == method)
            than = "more" if found[widest] > seeds else "no more"
            yield (
                f"{title(method)}: between the best and the worst setting lie up to {found[widest]:.1f} points "
                f"({task(widest)}), {than} than the largest deviation between seeds ({seeds:.1f}); the best average "
                f"has {described(best)}{'' if best.options else ' as it is by default'} ({study.mean(best):.1f}). "
            )


def kept(study: Study) -> Iterator[str]:
    """What is left of the earlier tasks."""
    means = {own.variant: own for own in study.runs if sequence_mean(own).mean is not None}
    lost = {variant: forgetting(own) for variant, own in means.items() if forgetting(own).mean is not None}
    if lost:
        order = sorted(lost, key=lambda variant: lost[variant].mean or 0.0)
        yield f"{described(order[0])} loses least on the earlier tasks ({lost[order[0]]:.1f} points), "
        yield f"{described(order[-1])} most ({lost[order[-1]]:.1f}). "
    if means:
        best = max(means.values(), key=lambda own: sequence_mean(own).mean or 0.0)
        yield f"The highest mean after all tasks is {described(best.variant)}'s ({sequence_mean(best):.1f})."


def first_batches(study: Study) -> Iterator[str]:
    """Which starts leave the model as it was."""
    for method in LORETTA:
        losses: dict[str, Sample] = {}
        for variant in study.variants:
            if variant.method == method:
                start = setting_value(effective(variant, "init_weights"))
                losses[start] = average([own.sample(first_loss) for own in study.row(variant)])
        exact = losses.get("residual", Sample()).mean
        if exact is None:
            continue
        others = {start: own.mean for start, own in losses.items() if own.mean is not None and start != "residual"}
        same = [start for start, loss in others.items() if abs(loss - exact) < 1e-3]
        moved = [f"{start} {loss - exact:+.3f}" for start, loss in others.items() if start not in same]
        yield f"{title(method)}: the first batch costs {exact:.3f} with the model as it was (residual); "
        yield f"the same: {listed(same)}; other: {listed(moved)}. "


def climbing(study: Study) -> Iterator[str]:
    """Which losses end above their lowest point by more than seeds are apart."""
    risen = [(own, climb(own)) for own in study.runs if climb(own).mean is not None]
    if risen:
        up = [_named(own) for own, sample in risen if (sample.mean or 0.0) > (sample.std or 0.0)]
        flat = [_named(own) for own, sample in risen if _named(own) not in up]
        yield f"The loss ends above its lowest point, by more than a standard deviation, for {listed(up)}; "
        yield f"it does not for {listed(flat)}."


def _named(own: Runs) -> str:
    return f"{described(own.variant)} on {column(own.tasks)}"

"""Where LoRETTA is not the best choice, computed from the runs."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.paper.report.aggregate import Evidence, Sample, Study, Variant
from benchmarks.paper.report.measured import LORETTA
from benchmarks.paper.report.table import count
from benchmarks.paper.report.wording import column, described, listed

_CONTROLS = ("head", "norms-head")
_NEAR = 1.0  # points: what one would give up for fewer parameters


def where_others_are_better(evidence: Evidence) -> list[str]:
    """One sentence each; none for a study without finished runs."""
    found: list[str] = []
    for name, model in (("t1", "the encoder"), ("lm", "the language model")):
        study = evidence.study(name)
        if any(own.finished for own in study.runs):
            found += [*_tasks(study, model), *_controls(study, model), *_cheapest(study, model)]
    return found


def _tasks(study: Study, model: str) -> Iterator[str]:
    """Tasks on which another method is more than a standard deviation ahead of the better one of LoRETTA's two."""
    level = []
    for tasks in study.tasks:
        scores = {variant: study.at(variant, tasks).score() for variant in study.variants}
        ours = _best({variant: own for variant, own in scores.items() if variant.method in LORETTA})
        if ours is None:
            continue
        ahead = [variant for variant in _others(study) if scores[variant].ahead_of(scores[ours])]
        if ahead:
            told = listed(
                f"{described(variant)} ({scores[variant]:.1f})"
                for variant in sorted(ahead, key=lambda variant: -(scores[variant].mean or 0.0))
            )
            yield f"{column(tasks)}, {model}: {told} ahead of {described(ours)} ({scores[ours]:.1f})."
        else:
            level.append(column(tasks))
    if level:
        yield f"On {listed(level)} nothing is more than one standard deviation ahead of LoRETTA on {model}."


def _others(study: Study) -> list[Variant]:
    return [variant for variant in study.variants if variant.method not in (*LORETTA, *_CONTROLS)]


def _controls(study: Study, model: str) -> Iterator[str]:
    """Tasks on which the tensor trains are not needed: norms and head alone do as well."""
    control = study.find("norms-head")
    if control is None:
        return
    enough, tested = [], 0
    for tasks in study.tasks:
        scores = {variant: study.at(variant, tasks).score() for variant in study.variants}
        ours = _best({variant: own for variant, own in scores.items() if variant.method in LORETTA})
        if ours is not None and scores[control].is_complete:
            tested += 1
            if not scores[ours].ahead_of(scores[control]):
                enough.append(column(tasks))
    if tested:
        yield (
            f"Norms and head alone, without any tensor train, are within one standard deviation of LoRETTA, or above "
            f"it, on {len(enough)} of {tested} tasks of {model}{': ' + listed(enough) if enough else ''}."
        )


def _cheapest(study: Study, model: str) -> Iterator[str]:
    """The method of fewest trained parameters that is near the best average."""
    averages = {variant: study.mean(variant) for variant in study.variants}
    best = _best(averages)
    if best is None:
        return
    top = averages[best].mean or 0.0
    near = [variant for variant, own in averages.items() if own.mean is not None and own.mean >= top - _NEAR]
    cheapest = min(near, key=lambda variant: _total(study, variant))
    top_text = f"The best average on {model} is {described(best)}'s ({averages[best]:.1f})"
    if near == [best]:
        yield f"{top_text}; no other method is within {_NEAR:g} point of it."
    else:
        yield (
            f"{top_text}; of the {len(near)} methods within {_NEAR:g} point of it {described(cheapest)} trains the "
            f"least ({count(_total(study, cheapest))} parameters, head and norms included)."
        )


def _best(samples: dict[Variant, Sample]) -> Variant | None:
    known = {variant: own.mean for variant, own in samples.items() if own.mean is not None}
    return max(known, key=known.__getitem__) if known else None


def _total(study: Study, variant: Variant) -> int:
    return study.parameters(variant, "total") or 0

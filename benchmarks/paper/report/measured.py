"""Claims that were put to the test by training: a verdict as soon as every run that it needs is there."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product

from benchmarks.paper.report import printed
from benchmarks.paper.report.aggregate import Evidence, Outcome, Runs, Sample, Study, Variant, average, combine
from benchmarks.paper.report.findings import Claim, Finding, reproduced_if, untested
from benchmarks.paper.report.printed import ADP, REP
from benchmarks.paper.report.quantities import chosen_over_last, climb, early_loss, first_loss, forgetting
from benchmarks.paper.report.wording import described, effective, listed, task, title

LORETTA = ("loretta-rep", "loretta-adp")
_POINTS, _FRACTION = 1.0, 5  # "comparable": within so many points of LoRA with a fifth of its adapter parameters


def _need(study: Study, samples: Iterable[Sample]) -> Finding | None:
    """Why there is no verdict yet: a claim is judged on all of its runs or not at all."""
    if study.planned == 0:
        return untested("The profile has no such runs.")
    if not all(sample.is_complete for sample in samples):
        return untested(f"The runs that it needs are not all there, or all diverged ({study.progress}).")
    return None


def _average(study: Study, method: str) -> Sample:
    return study.mean(study.find(method))


def _comparable(method: str, study_name: str, evidence: Evidence) -> Finding:
    """Whether a method, in any of the settings that the study has of it, is near LoRA with far fewer parameters.

    Judged on the tasks that LoRA learns: where nobody learns anything all are on a par, and noise would decide.
    """
    study = evidence.study(study_name)
    reference, control = study.find("lora-8"), study.find("head")
    lora = study.mean(reference)
    gaps = {variant: study.mean(variant) - lora for variant in study.variants if variant.method == method}
    floor = [study.mean(control)] if control else []
    if missing := _need(study, (lora, *floor, *(gaps.values() or [Sample()]))):
        return missing
    learnt = [
        tasks
        for tasks in study.tasks
        if control is None or study.mean(reference, [tasks]).ahead_of(study.mean(control, [tasks]))
    ]
    if not learnt:
        return untested(f"LoRA r=8 is ahead of the head alone on none of {len(study.tasks)} tasks.")
    on_these = study.mean(reference, learnt)
    adapters_of_lora = _trained(study, reference, "adapters")
    told = [
        f"LoRA r=8 has {on_these:.2f} on average over {_of_tasks(study, learnt)} with {adapters_of_lora:,} adapter "
        f"parameters ({_trained(study, reference, 'total'):,} with norms and head)."
    ]
    met = []
    for variant, over_all in gaps.items():
        own, adapters = study.mean(variant, learnt), _trained(study, variant, "adapters")
        gap, fewer = own - on_these, adapters_of_lora / max(1, adapters)
        met.append((gap.mean or 0.0) >= -_POINTS and fewer >= _FRACTION)
        also = f"; {over_all.mean:+.2f} over all" if len(learnt) < len(study.tasks) else ""
        told.append(
            f"{described(variant)}: {own:.2f} ({gap.mean:+.2f} ± {gap.std or 0.0:.2f} seed by seed{also}) with "
            f"{adapters:,} ({_trained(study, variant, 'total'):,}), 1/{fewer:.1f} of LoRA's."
        )
    told.append(f"Asked for: within {_POINTS:g} point at 1/{_FRACTION} or less.")
    return reproduced_if(any(met), " ".join(told))


def _of_tasks(study: Study, learnt: Sequence[tuple[str, ...]]) -> str:
    if len(learnt) == len(study.tasks):
        return f"{len(learnt)} tasks"
    names = listed(task(own[-1]) for own in learnt)
    return f"the {len(learnt)} of {len(study.tasks)} tasks on which it is ahead of the head alone ({names})"


def _trained(study: Study, variant: Variant | None, kind: str) -> int:
    return (study.parameters(variant, kind) if variant else None) or 0


def _above_small_methods(evidence: Evidence) -> Finding:
    study, others = evidence.study("t1"), ("bitfit", "ia3", "prefix", "prompt", "p-tuning")
    planned = [name for name in others if study.find(name)]
    averages = {name: _average(study, name) for name in (*LORETTA, *planned)}
    if missing := _need(study, averages.values()):
        return missing
    if not planned:
        return untested("The profile has none of them.")
    ours = max((averages[name] for name in LORETTA), key=lambda sample: sample.mean or 0.0)
    beaten = [name for name in planned if ours.ahead_of(averages[name])]
    told = ", ".join(f"{title(name)} {averages[name]:.2f}" for name in planned)
    return reproduced_if(
        len(beaten) == len(planned),
        f"The better of LoRETTA's two has {ours:.2f}; {told}. It is more than one standard deviation ahead of "
        f"{len(beaten)} of {len(planned)}.",
    )


def _adapters_not_norms(evidence: Evidence) -> Finding:
    study = evidence.study("t1")
    averages = {name: _average(study, name) for name in (*LORETTA, "norms-head", "head")}
    if missing := _need(study, averages.values()):
        return missing
    control, floor = averages["norms-head"], averages["head"]
    gained = ((control - floor).mean or 0.0, *((averages[name] - floor).mean or 0.0 for name in LORETTA))
    return reproduced_if(
        all(averages[name].ahead_of(control) for name in LORETTA),
        f"Norms and head alone reach {control:.2f}, the head alone {floor:.2f}, "
        f"{' and '.join(f'{title(name)} {averages[name]:.2f}' for name in LORETTA)}: norms and head alone gain "
        f"{gained[0]:+.2f} points on the head, LoRETTA {gained[1]:+.2f} and {gained[2]:+.2f}.",
    )


def _forgets_less(evidence: Evidence) -> Finding:
    study = evidence.study("t4")
    names = (*LORETTA, *(name for name in ("lora-8", "adapters-64") if study.find(name)))
    lost = {name: _sequence(study, name, forgetting) for name in names}
    if missing := _need(study, lost.values()):
        return missing
    others = [name for name in names if name not in LORETTA]
    better = all(lost[other].ahead_of(lost[ours]) for ours in LORETTA for other in others)
    told = ", ".join(f"{title(name)} {sample:.1f}" for name, sample in lost.items())
    return reproduced_if(
        bool(others) and better,
        f"Points lost on the earlier tasks: {told}. Asked for: less than the others by more than a standard deviation.",
    )


def _sequence(study: Study, method: str, number: Callable[[Runs], Sample]) -> Sample:
    variant = study.find(method)
    rows = study.row(variant) if variant else ()
    return number(rows[0]) if rows else Sample()


def spreads(study: Study, method: str) -> dict[str, float] | None:
    """Per task, how far apart the best and the worst setting of a method are; None while runs are missing."""
    scores: dict[str, list[Sample]] = {}
    for own in study.runs:
        if own.variant.method == method:
            scores.setdefault(own.tasks[-1], []).append(own.score())
    if not all(sample.is_complete for samples in scores.values() for sample in samples):
        return None
    means = {task: [sample.mean or 0.0 for sample in samples] for task, samples in scores.items()}
    return {task: max(own) - min(own) for task, own in means.items()}


def _insensitive(study_name: str, table: str, what: str, evidence: Evidence) -> Finding:
    study = evidence.study(study_name)
    found = {name: spreads(study, name) for name in LORETTA if study_has(study, name)}
    if not found:
        return untested("The profile has no such runs.")
    known = {name: own for name, own in found.items() if own}
    if len(known) < len(found):
        return untested(f"The runs that it needs are not all there, or all diverged ({study.progress}).")
    limit = max(_printed_spreads(table))
    told = "; ".join(
        f"{title(name)} {', '.join(f'{task(on)} {points:.2f}' for on, points in own.items())}"
        for name, own in known.items()
    )
    return reproduced_if(
        max(max(own.values()) for own in known.values()) <= limit,
        f"Between the best and the worst {what} lie, in points: {told}. The paper's own spread is up to {limit:.2f}.",
    )


def study_has(study: Study, method: str) -> bool:
    """Whether a study has a row of a method, with whatever settings."""
    return any(variant.method == method for variant in study.variants)


def _printed_spreads(table: str) -> list[float]:
    """How far apart the settings of a method are in one of the paper's tables, for each method and column."""
    scores: dict[tuple[str, str], list[float]] = {}
    for own in printed.PRINTED:
        if own.table == table:
            for name, score in own.scores.items():
                scores.setdefault((own.method, name), []).append(score)
    return [max(own) - min(own) for own in scores.values()]


def _norms_matter(evidence: Evidence) -> Finding:
    study = evidence.study("t11")
    rows = [variant for variant in study.variants if variant.method in LORETTA]
    gains = {
        f"{title(trained.method)}, head {effective(trained, 'head')}": study.mean(trained) - study.mean(kept)
        for trained, kept in product(rows, rows)
        if effective(trained, "train_norms") and not effective(kept, "train_norms") and _same(trained, kept)
    }
    if missing := _need(study, gains.values()):
        return missing
    if not gains:
        return untested("The profile has no pair of runs with and without norms.")
    helped = [name for name, gain in gains.items() if (gain.mean or 0.0) > (gain.std or 0.0)]
    told = "; ".join(f"{name} {gain.mean:+.2f} ± {gain.std or 0.0:.2f}" for name, gain in gains.items())
    return reproduced_if(
        2 * len(helped) > len(gains),
        f"Points that trained norms add, seed by seed: {told}. Beyond one standard deviation in {len(helped)} of "
        f"{len(gains)} pairs.",
    )


def _same(one: Variant, other: Variant) -> bool:
    """Whether two rows differ in nothing but the norms."""
    names = {name for name, _ in (*one.options, *other.options)} - {"train_norms"}
    return one.method == other.method and all(effective(one, name) == effective(other, name) for name in names)


def _no_overfitting(evidence: Evidence) -> Finding:
    study = evidence.study("curves")
    others = [name for name in ("lora-8", "adapters-64") if study_has(study, name)]
    names = [*LORETTA, *others]
    risen = {name: _method_climb(study, name) for name in names}
    if missing := _need(study, risen.values()):
        return missing
    told = ", ".join(f"{title(name)} {sample:.3f}" for name, sample in risen.items())
    apart = all(risen[other].ahead_of(risen[ours]) for ours in LORETTA for other in others)
    flat = all((risen[ours].mean or 0.0) <= (risen[ours].std or 0.0) for ours in LORETTA)
    less = " LoRETTA's climbs less than that of the others, but it climbs." if others and apart and not flat else ""
    return reproduced_if(
        bool(others) and apart and flat,
        f"At the end the evaluation loss stands above its lowest point by: {told}.{less}",
    )


def _method_climb(study: Study, method: str) -> Sample:
    return average([climb(own) for own in study.runs if own.variant.method == method])


def _noise_reduction(evidence: Evidence) -> Finding:
    """How far a start moves the first loss away from that of the exact one, with the mean taken out and without."""
    study = evidence.study("init")
    moved = {
        name: {start: _moved(study, name, start) for start in ("paper-mean", "gaussian")}
        for name in LORETTA
        if study_has(study, name)
    }
    if missing := _need(study, (sample for own in moved.values() for sample in own.values())):
        return missing
    told = "; ".join(
        f"{title(name)} by {own['paper-mean']:.3f} with the mean taken out, {own['gaussian']:.3f} without"
        for name, own in moved.items()
    )
    return reproduced_if(
        all((own["paper-mean"].mean or 0.0) < (own["gaussian"].mean or 0.0) / 2 for own in moved.values()),
        f"The start moves the loss of the first batch: {told}. Asked for: less than half.",
    )


def _moved(study: Study, method: str, start: str) -> Sample:
    first = partial(_start, study, method, first_loss)
    return combine((first("residual"), first(start)), lambda exact, other: abs(other - exact))


def _start(study: Study, method: str, number: Callable[[Outcome], float | None], start: str) -> Sample:
    rows = [
        own for own in study.runs if own.variant.method == method and effective(own.variant, "init_weights") == start
    ]
    return average([own.sample(number) for own in rows]) if rows else Sample()


def _start_helps(evidence: Evidence) -> Finding:
    study = evidence.study("init")
    losses = {
        name: [_start(study, name, early_loss, start) for start in ("residual", "gaussian")]
        for name in LORETTA
        if study_has(study, name)
    }
    if missing := _need(study, (sample for pair in losses.values() for sample in pair)):
        return missing
    told = "; ".join(f"{title(name)} {exact:.3f} and {noisy:.3f}" for name, (exact, noisy) in losses.items())
    return reproduced_if(
        all(noisy.ahead_of(exact) for exact, noisy in losses.values()),
        f"Training loss over the first fifth without any noise (residual) and with all of it (gaussian): {told}. Asked "
        "for: lower by more than a standard deviation.",
    )


def _one_seed(evidence: Evidence) -> Finding:
    """Whether the distance between the paper's rows could be that between seeds."""
    study = evidence.study("t1")
    stds = [own.score().std for own in study.runs if own.score().is_complete]
    known = [std for std in stds if std is not None]
    if not known or study.done < study.planned:
        return untested(f"The deviations between seeds are not known yet ({study.progress}).")
    typical = statistics.median(known)
    adp = printed.row("Table 1", ADP).scores
    others = [printed.row("Table 1", *name).scores for name in ((REP,), ("LoRA", "r=8"), ("BitFit",))]
    gaps = [abs(adp[task] - other[task]) for task in adp for other in others]
    inside = sum(gap <= 2 * typical for gap in gaps)
    return reproduced_if(
        2 * inside < len(gaps),
        f"Our seeds differ by {typical:.2f} points within a cell (median standard deviation of {len(known)} cells); "
        f"{inside} of the {len(gaps)} differences of LoRETTA_adp to LoRETTA_rep, LoRA r=8 and BitFit in Table 1 are at "
        "most twice that.",
    )


def _checkpoint(evidence: Evidence) -> Finding:
    """What choosing the best evaluation on the reported rows would add."""
    study = evidence.study("curves")
    gains = {}
    for own in study.runs:
        gains[own.variant.method] = chosen_over_last(own)
    if missing := _need(study, gains.values()):
        return missing
    means = [sample.mean or 0.0 for sample in gains.values()]
    return reproduced_if(
        max(means) < 0.1,
        "The best of the evaluations on the reported rows is above the last one by "
        f"{', '.join(f'{title(name)} {sample:.2f}' for name, sample in gains.items())} points: that much is choice, "
        "not method. All scores on this page are those after the last step.",
    )


def _too_large(what: str, _: Evidence) -> Finding:
    return untested(f"{what} need an accelerator and the hub: `--profile paper` holds these runs.")


MEASURED = (
    Claim("Table 1", "LoRETTA_rep is on a par with LoRA at a fraction of its parameters.",
          partial(_comparable, "loretta-rep", "t1")),
    Claim("Table 1", "LoRETTA_adp is on a par with LoRA at a fraction of its parameters.",
          partial(_comparable, "loretta-adp", "t1")),
    Claim("Table 1", "LoRETTA is above the other methods of few parameters.", _above_small_methods),
    Claim("Table 1", "Implied: the tensor trains reach the score, not the norms and the head beside them.",
          _adapters_not_norms),
    Claim("Tables 1 to 7", "Implied: one run per cell is enough to order the methods.", _one_seed),
    Claim("Tables 1 to 7", "Implied: choosing the checkpoint on the reported rows changes little.", _checkpoint),
    Claim("Table 2", "LoRETTA_rep is on a par with LoRA on a language model, 1,000 examples.",
          partial(_comparable, "loretta-rep", "lm")),
    Claim("Table 2", "LoRETTA_adp is on a par with LoRA on a language model, 1,000 examples.",
          partial(_comparable, "loretta-adp", "lm")),
    Claim("Table 2", "The scores on LLaMA-2-7B.", partial(_too_large, "7B weights")),
    Claim("Table 3", "The scores on LLaMA-2-13B and 70B.", partial(_too_large, "13B and 70B weights")),
    Claim("Table 4", "LoRETTA forgets less of earlier tasks than LoRA and adapters.", _forgets_less),
    Claim("Table 6", "The tensor rank hardly matters.",
          partial(_insensitive, "t6", "Table 6", "rank")),
    Claim("Table 7", "The shape of the trains hardly matters.",
          partial(_insensitive, "t7", "Table 7", "shape")),
    Claim("Table 11", "Training the norms helps.", _norms_matter),
    Claim("Figure 4", "The evaluation loss of LoRA and adapters climbs, that of LoRETTA stays flat.", _no_overfitting),
    Claim("Section 3.3", "Taking the mean out of the start reduces its noise.", _noise_reduction),
    Claim("Section 3.3", "A start with less noise trains better.", _start_helps),
)  # fmt: skip

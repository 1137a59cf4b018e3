"""From an analysis to a plan: which weights become trains, of which shape and ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ttlib.checkpoint.analysis import CheckpointAnalysis
from ttlib.checkpoint.budget import Choice, ParetoPoint, allocate, curve
from ttlib.checkpoint.plan_file import CompressionPlan, PlannedWeight
from ttlib.errors import RankError
from ttlib.ranks import real_number


def plan_compression(analysis: CheckpointAnalysis, /, *, budget: float) -> CompressionPlan:
    """Choose shapes and ranks so that a checkpoint keeps at most *budget* of its parameters, and the error is small.

    >>> import tempfile, numpy as np
    >>> from safetensors.numpy import save_file
    >>> from ttlib.checkpoint import LocalEngine, analyze
    >>> easy, hard = np.outer(np.arange(1.0, 17), np.ones(64)), np.random.default_rng(0).standard_normal((16, 64))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"easy.weight": easy, "hard.weight": hard}, f"{folder}/model.safetensors")
    ...     found = analyze(f"{folder}/model.safetensors", engine=LocalEngine(workers=0))
    >>> plan = plan_compression(found, budget=0.8)
    >>> sorted(plan.weights)
    ['easy.weight']

    Args:
        analysis: of the checkpoint; its shapes are those to choose from.
        budget: the share of all its parameters to keep, above 0 and at most 1.

    A weight that is dearer as a train than it is worth stays dense and is not in the plan.

    Raises:
        RankError: a budget that cannot be, or that is too small even for ranks of 1.
    """
    share = real_number(budget)
    if not 0.0 < share <= 1.0:
        msg = f"budget must be above 0 and at most 1 (the share of the parameters to keep), got {budget!r}"
        raise RankError(msg)
    sizes, untouched = _sizes(analysis), analysis.untouched_parameters
    parameters = int(share * (untouched + sum(sizes.values()))) - untouched
    allocation = allocate(_curves(analysis, sizes), sizes, parameters=parameters)
    trains = {
        name: PlannedWeight(choice.shape, ranks=choice.ranks)
        for name, choice in allocation.choices.items()
        if choice.shape is not None
    }
    lost = sum(sizes[name] * choice.error**2 for name, choice in allocation.choices.items())
    return CompressionPlan(
        trains,
        fingerprint=analysis.fingerprint,
        parameters=allocation.parameters,
        error=(lost / max(1, sum(sizes.values()))) ** 0.5,
        pareto=thinned(allocation.pareto),
    )


def pareto_curve(analysis: CheckpointAnalysis, /) -> tuple[ParetoPoint, ...]:
    """Return what budgets for all weights together buy, from ranks of 1 to the dense matrices."""
    sizes = _sizes(analysis)
    return thinned(allocate(_curves(analysis, sizes), sizes, parameters=sum(sizes.values())).pareto)


def _sizes(analysis: CheckpointAnalysis) -> dict[str, int]:
    return {weight.name: weight.rows * weight.cols for weight in analysis.weights}


def _curves(analysis: CheckpointAnalysis, sizes: Mapping[str, int]) -> dict[str, tuple[Choice, ...]]:
    return {
        weight.name: curve(sizes[weight.name], weight.norm, [own.shape for own in weight.shapes], weight.spectra)
        for weight in analysis.weights
    }


def thinned(points: Iterable[ParetoPoint], *, most: int = 200) -> tuple[ParetoPoint, ...]:
    """Leave out points that lie close to each other; the first and the last stay."""
    found = list(points)
    if len(found) <= most:
        return tuple(found)
    chosen = {round(k * (len(found) - 1) / (most - 1)) for k in range(most)}
    return tuple(found[k] for k in sorted(chosen))

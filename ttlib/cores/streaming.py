"""TT-SVD of an array that comes in blocks of rows and is never whole in memory.

The trailing modes are one group, of m columns: sums over the blocks tell a basis P (m, r) for it, one more pass makes
the rest A conj(P), which is small, and TT-SVD in memory goes on with that.  What the group loses is orthogonal to all
that comes after, so squared errors add up and the report is as exact as that of TT-SVD (Oseledets 2011, Theorem 2.2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ttlib import _arrays
from ttlib._blocks import RowBlocks
from ttlib._types import Cores, Ranks, Shape
from ttlib.cores.canonical import orthogonalise
from ttlib.cores.decompose import tt_svd
from ttlib.cores.report import DecompositionReport
from ttlib.cores.scaling import deliver, rounding_floor
from ttlib.cores.stream_data import StreamData
from ttlib.cores.stream_group import Group, GroupTask, by_gram_matrix, by_range
from ttlib.cores.thick_step import expected_ranks
from ttlib.errors import RankError
from ttlib.linalg import DRIVERS, SVDDriver, compressions
from ttlib.ranks import clip_ranks
from ttlib.stream_plan import StreamPlan, stream_plans

# Bytes for all arrays at once, but for the block at hand, the result and what the interpreter takes.
MEMORY = 160 << 20


def tt_svd_of_blocks(
    blocks: RowBlocks,
    shape: Shape,
    *,
    max_ranks: Ranks,
    eps: float | None,
    driver: SVDDriver,
    memory: int = MEMORY,
) -> tuple[Cores, DecompositionReport]:
    """Decompose an array that is read block by block; *max_ranks* are already clipped to the shape.

    *memory* bounds the bytes of the arrays alive at once, but for one block and the result; capped ranks may need a few
    times the result.  The cores are numpy arrays, all but the last left-orthogonal.  *driver* cuts the bonds of what is
    left in memory; the pass over the blocks is by Gram matrices, checked, or triangular factors where it asks for them.

    Raises NonFiniteError, and RankError where the ranks that a tolerance asks for do not fit into the memory.
    """
    size, unit = math.prod(shape), np.empty(1, blocks.dtype)
    full = clip_ranks(shape, size)
    tolerance = max(eps or 0.0, rounding_floor(unit, eps, size=size))
    ways = tuple(way for way in compressions(driver, unit) if not way.is_coarse(unit[None, None]))
    data = StreamData(blocks)
    guessed = eps is not None or max_ranks == full
    task = GroupTask(data, shape, max_ranks, tolerance, guessed, ways or compressions(DRIVERS["qr"], unit), memory)
    if len(shape) == 1:
        return _finished(task, task.nothing(), eps=eps, driver=driver)
    plans = stream_plans(
        shape,
        max_ranks,
        expected=expected_ranks(max_ranks, full) if guessed else None,
        row=blocks.row,
        itemsize=blocks.dtype.itemsize,
        memory=memory,
    )
    tried: list[StreamPlan] = []
    for plan in plans:
        if any(plan.is_no_more_than(other) for other in tried):
            continue
        group = by_range(task, plan) if plan.width else by_gram_matrix(task, plan)
        if group is not None:
            return _finished(task, group, eps=eps, driver=driver)
        tried.append(plan)
    msg = (
        f"the ranks that {'an exact train' if eps is None else f'eps={eps}'} asks for do not fit into the working "
        f"memory of {memory / 2**20:.3g} MiB for shape {shape}: cap the ranks, raise eps, or load the array first"
    )
    raise RankError(msg)


def _finished(
    task: GroupTask, group: Group, *, eps: float | None, driver: SVDDriver
) -> tuple[Cores, DecompositionReport]:
    """Cut the bonds of the rest, put the cores together, and report on all bonds."""
    split, rank = len(task.shape) - len(group.cores), group.rest.shape[1]
    shape = (*task.shape[:split], rank) if group.cores else task.shape
    share = float(_arrays.energies(group.rest[None])[0]) / group.energy if group.energy > 0 else 1.0
    floor = rounding_floor(group.rest, 0.0, size=1)
    left = min(1.0, max(floor, math.sqrt(max(0.0, task.tolerance**2 - group.lost) / (share or 1.0))))
    caps = clip_ranks(shape, (*task.max_ranks[: len(shape)], 1))
    budget, rest = None if eps is None else left, group.rest.reshape(shape)
    (cores, report), *_ = tt_svd([rest], shape, max_ranks=caps, eps=budget, driver=driver, dtype=rest.dtype)
    exponent = 0
    if group.cores:
        joint = np.tensordot(cores[-1][:, :, 0], group.cores[0], axes=1)  # (r', r) (r, n, r'')
        cores, exponent = orthogonalise((*cores[:-1], joint, *group.cores[1:]), len(task.shape) - 1)
    cores = deliver(cores, exponent + task.data.exponent, like=None, dtype=task.data.result_dtype)
    error = math.sqrt(group.lost + report.relative_error**2 * share)
    allowed = max(task.tolerance, math.sqrt(group.lost + left**2 * share))  # more only by what rounding makes anyway
    inner = slice(0, max(0, split - 1))
    spectra = (*report.singular_values[inner], *(cut.singular_values[0] for cut in group.cuts))
    return cores, DecompositionReport(
        relative_error=error,
        singular_values=tuple(_ldexp(values, task.data.exponent) for values in spectra),
        ranks=(1, *(int(core.shape[2]) for core in cores)),
        shape=task.shape,
        drivers=(*report.drivers[inner], *(cut.driver for cut in group.cuts)),
        reasons=(*report.reasons[inner], *(cut.reason for cut in group.cuts)),
        tolerance_met=None if eps is None else error <= allowed * (1 + 1e-12),
    )


def _ldexp(values: Any, exponent: int) -> Any:
    with np.errstate(over="ignore"):  # the values of an array near the end of the range may lie beyond it
        return np.ldexp(values, exponent)

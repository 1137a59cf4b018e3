"""The ranks of a train against the largest that its shape can carry."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

from ttlib._types import Ranks, RanksLike, Shape, ShapeLike
from ttlib.cores.report import DecompositionReport
from ttlib.errors import ShapeError
from ttlib.plot.style import BLUE, FAINT, INK, PALE, SMALL, VERMILION, axes, compact, dress, remark
from ttlib.ranks import clip_ranks, expand_ranks
from ttlib.shapes import check_shape
from ttlib.train import Train

_BELOW_ONE = 0.7  # where bars begin on the logarithmic axis: a rank of 1 must be seen
_FEW_BONDS = 12  # up to here there is room for the modes between the bonds


class RankRow(NamedTuple):
    """One bond: the modes on either side, its rank, and the largest that the shape can carry there."""

    bond: int
    left_mode: int
    right_mode: int
    rank: int
    largest: int


def rank_rows(source: Train | DecompositionReport | RanksLike, /, *, shape: ShapeLike | None = None) -> list[RankRow]:
    """Return what `rank_profile` draws, a row for each inner bond.

    >>> from ttlib.plot import rank_rows
    >>> rank_rows(5, shape=[4, 8, 2])
    [RankRow(bond=1, left_mode=4, right_mode=8, rank=5, largest=4),
     RankRow(bond=2, left_mode=8, right_mode=2, rank=5, largest=2)]
    """
    modes, ranks = _shape_and_ranks(source, shape)
    largest = clip_ranks(modes, math.prod(modes))
    return [RankRow(k, modes[k - 1], modes[k], ranks[k], largest[k]) for k in range(1, len(modes))]


def rank_profile(
    source: Train | DecompositionReport | RanksLike, /, *, shape: ShapeLike | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the rank of every inner bond as a bar, in front of the largest rank that the shape can carry there.

    >>> import ttlib
    >>> from ttlib.plot import rank_profile
    >>> ax = rank_profile(ttlib.random([8, 8, 12, 8, 8], ranks=5, seed=0))
    >>> [int(bar.get_height() + 0.7) for bar in ax.containers[1]]
    [5, 5, 5, 5]

    Args:
        source: a `TensorTrain`, a `TTMatrix` (whose modes are row mode times column mode), a `DecompositionReport`,
            or ranks as `ttlib.decompose` takes them, which need `shape`.
        shape: the modes, where `source` is ranks.
        ax: draw here instead of into a new figure.

    The largest ranks are those of `ttlib.clip_ranks`.  The axis is logarithmic, and bars begin at 0.7, for a rank of 1
    to be seen.  A rank above the largest holds nothing but redundancy and has another colour.

    Raises ShapeError for a shape that is missing, superfluous or none, RankError for ranks that do not fit it.
    """
    rows = rank_rows(source, shape=shape)
    ax = axes(ax)
    if not rows:
        return remark(ax, "there is no bond")
    bonds = [row.bond for row in rows]
    ax.set_yscale("log", base=2)
    ax.bar(bonds, [row.largest - _BELOW_ONE for row in rows], 0.8, bottom=_BELOW_ONE, color=FAINT, label="largest")
    colours = [VERMILION if row.rank > row.largest else BLUE for row in rows]
    ax.bar(bonds, [row.rank - _BELOW_ONE for row in rows], 0.5, bottom=_BELOW_ONE, color=colours, label="rank")
    top = max(max(row.rank, row.largest) for row in rows)
    ax.set_ylim(_BELOW_ONE, top * (top / _BELOW_ONE) ** 0.12)
    _set_axes(ax, rows)
    _name(ax, rows)
    return ax


def _set_axes(ax: Axes, rows: list[RankRow]) -> None:
    few = len(rows) <= _FEW_BONDS
    modes = [row.left_mode for row in rows] + [rows[-1].right_mode]
    dress(ax, xlabel="bond, between the modes beside it" if few else "bond", ylabel="rank", grid="y")
    ax.set_xlim(0.3, len(rows) + 0.7)
    ax.xaxis.set_major_locator(FixedLocator([row.bond for row in rows]))
    if few:
        ax.set_xticks([k + 0.5 for k in range(len(modes))], [f"n={mode}" for mode in modes], minor=True)
        ax.tick_params(axis="x", which="minor", length=0, pad=7, labelcolor=PALE)
    ax.yaxis.set_major_locator(LogLocator(base=2, numticks=9))
    ax.yaxis.set_major_formatter(lambda value, _: _short(value) if value >= 1 else "")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_formatter(NullFormatter())


def _name(ax: Axes, rows: list[RankRow]) -> None:
    """Write the rank above its bar, and the largest one above that where it is another."""
    size = SMALL if len(rows) <= _FEW_BONDS else 6
    above: dict[str, Any] = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "fontsize": size}
    for row in rows:
        redundant = row.rank > row.largest
        ax.annotate(_short(row.rank), (row.bond, row.rank), color=VERMILION if redundant else BLUE, **above)
        if row.largest > row.rank * 1.3:
            ax.annotate(_short(row.largest), (row.bond, row.largest), color=PALE, **above)
    if any(row.rank > row.largest for row in rows):
        ax.set_title("red: more than the shape can carry", fontsize=SMALL, color=INK, loc="right")


def _short(rank: float) -> str:
    return f"{rank:.0f}" if rank < 10_000 else compact(rank)


def _shape_and_ranks(source: Train | DecompositionReport | RanksLike, shape: ShapeLike | None) -> tuple[Shape, Ranks]:
    if isinstance(source, Train | DecompositionReport):
        if shape is not None:
            msg = f"shape {tuple(shape)} was given beside a {type(source).__name__}, which has its own: leave it out"
            raise ShapeError(msg)
        if isinstance(source, DecompositionReport):
            return source.shape, source.ranks
        return tuple(math.prod(core.shape[1:-1]) for core in source.cores), source.ranks
    if shape is None:
        msg = f"ranks {source!r:.80} alone say nothing of the largest possible ones: give shape=, the modes"
        raise ShapeError(msg)
    modes = check_shape(shape)
    return modes, expand_ranks(modes, source)

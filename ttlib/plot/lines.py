"""The singular values at every bond, and which of them a truncation keeps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from ttlib._types import RanksLike
from ttlib.plot.labels import Label, Rectangle, place
from ttlib.plot.spectra import Bond, Spectra, SpectrumSource, read_spectra
from ttlib.plot.style import (
    PALE,
    SMALL,
    TEXT,
    axes,
    dress,
    name_ticks,
    remark,
    sequence_colours,
    set_scale,
)

_FEW_VALUES = 40  # up to here each value gets a dot
_FEW_BONDS = 8  # up to here their names stand beside the lines
_SPREAD = 10  # lines of so different lengths are drawn over decades of the number


class SpectrumRow(NamedTuple):
    """One singular value of one bond, and whether it stays."""

    bond: str
    number: int
    value: float
    kept: bool


def spectrum_rows(
    source: SpectrumSource, /, *, ranks: RanksLike | None = None, eps: float | None = None
) -> list[SpectrumRow]:
    """Return what `spectrum` draws, bond by bond, from the largest value down.

    >>> from ttlib.plot import spectrum_rows
    >>> spectrum_rows([3.0, 2.0], ranks=1)
    [SpectrumRow(bond='bond 1', number=1, value=3.0, kept=True),
     SpectrumRow(bond='bond 1', number=2, value=2.0, kept=False)]
    """
    return [
        SpectrumRow(bond.name, number, float(value), number <= bond.kept)
        for bond in read_spectra(source, ranks, eps).bonds
        for number, value in enumerate(bond.values, 1)
    ]


def spectrum(
    source: SpectrumSource, /, *, ranks: RanksLike | None = None, eps: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the singular values at every bond, and where ranks or a tolerance cut them off.

    >>> import numpy as np, ttlib
    >>> from ttlib.plot import spectrum
    >>> tt, report = ttlib.decompose(np.ones((8, 9, 10)), ranks=5, return_report=True)
    >>> spectrum(report).get_yscale()
    'log'
    >>> ax = spectrum({"query": [9.0, 3.0, 1.0], "key": [8.0, 0.5]}, eps=0.1)
    >>> ax.figure.savefig("spectrum.png")  # doctest: +SKIP

    Args:
        source: a `TensorTrain` or `TTMatrix`; a `DecompositionReport`, whose ranks are the cut unless another is
            asked; or singular values in any order: those of one bond, a sequence of such, or a mapping of names to
            such.  Instead of the values of a bond there may be an object that has them as `.values`, and as
            `.residual` the sum of the squares of those that are not among them.
        ranks: keep at most so many: one int, or one for each bond (with or without a 1 at both ends).
        eps: the relative tolerance of TT-SVD, shared equally: at each bond the dropped values may have the norm
            eps ||A|| / sqrt(bonds).  With `ranks` too the smaller rank is kept.
        ax: draw here instead of into a new figure.

    Kept values are drawn in full, dropped ones faintly, with a dot at the last one that is kept.  A dashed line
    stands where all ranks are equal, or at the largest value that the tolerance could drop.  Zeros are at the
    tick 0.  The number of the value is on a logarithmic axis where bonds differ tenfold in how many they have.

    Raises BackendError, ShapeError for what is no spectrum, NonFiniteError for NaN or infinities, ValueError for
    negative values, RankError for ranks or a tolerance that cannot be.

    Source: Oseledets 2011, Algorithm 1 (the tolerance at a bond).
    """
    spectra = read_spectra(source, ranks, eps)
    ax = axes(ax)
    bonds = spectra.bonds
    if not bonds:
        return remark(ax, "there is no bond")
    colours = sequence_colours(len(bonds))
    for bond, colour in zip(bonds, colours, strict=True):
        _draw(ax, bond, colour)
    in_words = len(bonds) <= _FEW_BONDS or not spectra.numbered
    _set_axes(ax, bonds, room=1.2 if in_words else 1.0)
    obstacles = [box for bond in bonds for box in _boxes(bond)] + _draw_cut(ax, spectra)
    name_ticks(ax.yaxis)
    if not in_words:
        _add_colour_bar(ax, colours)
        return ax
    ends = [(len(bond.values), float(bond.values[-1])) for bond in bonds]
    place(
        ax,
        [Label(_named(bond), x, y, own) for bond, own, (x, y) in zip(bonds, colours, ends, strict=True)],
        obstacles,
    )
    return ax


def _draw(ax: Axes, bond: Bond, colour: str) -> None:
    numbers = np.arange(1, bond.values.size + 1)
    dot = {"marker": ".", "markersize": 4} if bond.values.size <= _FEW_VALUES else {}
    faint = {"alpha": 0.35, "linewidth": 1.0} if bond.truncated else {"linewidth": 1.5}
    ax.plot(numbers, bond.values, color=colour, label=bond.name, **faint, **dot)  # type: ignore[arg-type]
    if bond.truncated:
        ax.plot(numbers[: bond.kept], bond.values[: bond.kept], color=colour, linewidth=1.5, **dot)  # type: ignore[arg-type]
        ax.plot(bond.kept, bond.values[bond.kept - 1], color=colour, marker="o", markersize=5)


def _set_axes(ax: Axes, bonds: Sequence[Bond], room: float) -> None:
    """Fix the scales and limits, with *room* for the names at the ends of the lines."""
    values = np.concatenate([bond.values for bond in bonds])
    set_scale(ax, "y", values.tolist())
    if not values.any():
        ax.set(ylim=(-0.1, 1), yticks=[0])
    lengths = [bond.values.size for bond in bonds]
    dress(ax, xlabel="number of the singular value", ylabel="singular value")
    if max(lengths) >= _SPREAD * min(lengths):
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlim(0.9, max(lengths) * room**4)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.set_xlim(min(0.7, 1 - 0.03 * max(lengths)), max(lengths) * room + 0.5)


def _draw_cut(ax: Axes, spectra: Spectra) -> list[Rectangle]:
    """Draw the lines of the truncation with their names; return where these are."""
    look = {"color": PALE, "linewidth": 0.9, "linestyle": "--", "zorder": 1.5}
    low, high = ax.get_ylim()
    start, stop = ax.get_xlim()
    boxes: list[Rectangle] = []
    cut = {bond.kept for bond in spectra.bonds if bond.truncated}
    if len(cut) == 1 and spectra.limit is None:
        rank = cut.pop()
        ax.axvline(rank + 0.5, label="rank", **look)  # type: ignore[arg-type]
        ax.annotate(
            f"rank {rank}", (rank + 0.5, 1), (3, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
            va="top", color=PALE, fontsize=SMALL,
        )  # fmt: skip
        boxes.append((rank + 0.5, low, rank + 0.5, high))
    if spectra.limit:
        ax.axhline(spectra.limit, label="tolerance", **look)  # type: ignore[arg-type]
        ax.annotate(
            f"eps {spectra.eps:.3g}", (1, spectra.limit), (0, 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", color=PALE, fontsize=SMALL,
        )  # fmt: skip
        ax.set_ylim(min(low, spectra.limit), high)
        boxes.append((start, spectra.limit, stop, spectra.limit))
    return boxes


def _boxes(bond: Bond) -> list[Rectangle]:
    """Small boxes along a line, where no name should stand."""
    picks = np.unique(np.linspace(0, bond.values.size - 1, _FEW_VALUES).astype(int))
    corners = [(int(pick) + 1, float(bond.values[pick])) for pick in picks]
    return [(x, y, after, below) for (x, y), (after, below) in pairwise(corners)]


def _add_colour_bar(ax: Axes, colours: Sequence[str]) -> None:
    """Say which bond has which colour, where there is no room for names."""
    count = len(colours)
    norm = BoundaryNorm(np.arange(0.5, count + 1), count)
    bar = ax.figure.colorbar(ScalarMappable(norm, ListedColormap(colours)), ax=ax, pad=0.02)
    bar.set_ticks(range(1, count + 1, -(-count // 24)))
    bar.ax.tick_params(labelsize=SMALL, length=0)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    bar.set_label("bond", fontsize=TEXT)


def _named(bond: Bond) -> str:
    if not bond.truncated:
        return bond.name
    return f"{bond.name}: {bond.kept} of {bond.values.size}{'+' * (bond.residual > 0)}"

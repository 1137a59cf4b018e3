"""One look for all pictures: colours, new axes, scales that can show zero, numbers in few letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator, NullFormatter

from ttlib import _arrays
from ttlib.errors import BackendError, NonFiniteError, ShapeError

INK, PALE, FAINT = "#222222", "#666666", "#dddddd"
# Okabe and Ito's colours, which colour-blind readers can tell apart; markers help where colours do not.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BLUE, VERMILION = COLOURS[:2]
SMALL, TEXT = 8, 9

_SIZE = (6.0, 4.0)  # inches
_TWO_DECADES = 100.0
_UNITS = (("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15))


def axes(ax: Axes | None, *, height: float = _SIZE[1]) -> Axes:
    """Return *ax*, or the axes of a new figure that pyplot does not know.

    Raises BackendError for anything else.
    """
    if ax is None:
        return Figure(figsize=(_SIZE[0], height), layout="constrained").subplots()
    if not isinstance(ax, Axes):
        msg = f"ax must be a matplotlib Axes, got {type(ax).__name__}: pass what figure.subplots() returns, or None"
        raise BackendError(msg)
    return ax


def dress(ax: Axes, *, xlabel: str, ylabel: str, grid: Literal["x", "y", "both"] | None = "both") -> None:
    """Give the axes their labels, a faint grid behind the data, and no box."""
    ax.set_xlabel(xlabel, color=INK, fontsize=TEXT)
    ax.set_ylabel(ylabel, color=INK, fontsize=TEXT)
    ax.tick_params(which="both", color=PALE, labelcolor=INK, labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(PALE)
    ax.set_axisbelow(True)
    if grid:
        ax.grid(visible=True, which="major", axis=grid, color=FAINT, linewidth=0.6)


def remark(ax: Axes, text: str) -> Axes:
    """Say in the middle of the axes why nothing is drawn there."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=PALE, fontsize=11)
    return ax


def set_scale(ax: Axes, axis: Literal["x", "y"], values: Sequence[float]) -> None:
    """Scale an axis by decades; zeros, which have no logarithm, lie at a tick 0 below the smallest other value."""
    positive = [value for value in values if value > 0]
    if not positive:
        return
    low, high = min(positive), max(positive)
    if len(positive) == len(values):
        ax.set(**{f"{axis}scale": "log"})
        if high < 1.1 * low:  # or the axis would be as wide as two decades for one point
            ax.set(**{f"{axis}lim": (low / 2, high * 2)})
        return
    options: dict[str, Any] = {"linthresh": low, "linscale": 0.5}
    (ax.set_xscale if axis == "x" else ax.set_yscale)("symlog", **options)


def name_ticks(axis: Axis) -> None:
    """Write the numbers of a logarithmic axis in few letters, and more of them where it has few decades."""
    low, high = axis.get_view_interval()
    axis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axis.set_minor_formatter(NullFormatter())
    if low > 0 and high < _TWO_DECADES * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 5 * low else AutoLocator())


def sequence_colours(count: int) -> list[str]:
    """Return colours for things that have an order: distinct ones for a few, from dark to light for many."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [mpl.colors.to_hex(mpl.colormaps["viridis"](place)) for place in np.linspace(0.0, 0.9, count)]


def compact(value: float) -> str:
    """Write a number in few letters.

    >>> [compact(value) for value in (384, 98_304, 999_999, 0.0123456)]
    ['384', '98.3k', '1M', '0.0123']
    """
    rounded = float(f"{value:.3g}")
    for unit, size in _UNITS:
        if size <= abs(rounded) < 1000 * size:
            return f"{rounded / size:.3g}{unit}"
    return f"{rounded:.3g}"


def check_numbers(values: Any, *, name: str) -> np.ndarray[Any, Any]:
    """Return *values* as one row of finite float64 numbers that are not negative.

    Raises BackendError for what holds no real numbers, ShapeError for another shape, NonFiniteError for NaN and
    infinities, ValueError for negative numbers.
    """
    try:
        given = np.asarray(_arrays.to_numpy(values) if hasattr(values, "dtype") else values)
    except (TypeError, ValueError):  # rows of different lengths, for one
        given = np.empty(1, dtype=object)
    if given.size and given.dtype.kind not in "iuf":
        msg = f"{name} must be real numbers, got {values!r:.60}"
        raise BackendError(msg)
    numbers = given.astype(np.float64)
    if numbers.ndim != 1 or not numbers.size:
        msg = f"{name} must be one row of at least one number, got shape {numbers.shape}"
        raise ShapeError(msg)
    bad = ~np.isfinite(numbers)
    if bad.any():
        msg = f"{name} has {bad.sum()} value(s) that are NaN or infinite, the first at {bad.argmax()}: leave them out"
        raise NonFiniteError(msg)
    if (numbers < 0).any():
        first = int((numbers < 0).argmax())
        msg = f"{name} must not be negative, got {numbers[first]:g} at {first}: pass magnitudes"
        raise ValueError(msg)
    return numbers

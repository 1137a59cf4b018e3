"""Numbers by layer and projection, as colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ttlib.errors import BackendError, ShapeError
from ttlib.plot.style import INK, PALE, SMALL, TEXT, axes, check_numbers, compact, dress

_ROW = 0.22  # inches a layer needs
_HIGHEST = 10.0  # inches
_MOST_COLUMNS = 10  # up to here numbers fit into the cells
_MOST_ROWS = 40
_DECADES = 30.0  # values that spread so far are coloured by their logarithms


def heat_map(
    values: Mapping[tuple[Any, Any], float | None], /, *, ax: Axes | None = None, label: str = "value"
) -> Axes:
    """Draw numbers by layer (downwards) and projection (across), with the number in each cell while there is room.

    >>> from ttlib.plot import heat_map
    >>> ax = heat_map({(0, "query"): 12_000, (0, "value"): 30_000, (1, "query"): 9_000}, label="parameters")
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['query', 'value']

    Args:
        values: the number for each (layer, projection), in the order in which both first come; a cell that is missing
            or None is hatched.
        ax: draw here instead of into a new figure, which is as high as the layers need.
        label: what the numbers are, beside the colour bar.

    Colours follow the logarithm where all numbers are positive and the largest is thirty times the smallest.

    Raises ShapeError for no numbers or keys that are no pairs, BackendError for what is no mapping or no real number,
    NonFiniteError for NaN and infinities, ValueError for negative numbers.
    """
    layers, projections, table = _table(values)
    ax = axes(ax, height=min(max(4.0, _ROW * len(layers) + 1.0), _HIGHEST))
    low, high = float(np.nanmin(table)), float(np.nanmax(table))
    norm = LogNorm(low, high) if low > 0 and high >= _DECADES * low else Normalize(low, high)
    image = ax.imshow(np.ma.masked_invalid(table), cmap="cividis", norm=norm, aspect="auto")
    dress(ax, xlabel="", ylabel="layer", grid=None)
    ax.set_xticks(range(len(projections)), projections)
    if sum(map(len, projections)) > 60 or max(map(len, projections)) > 70 // len(projections):
        ax.set_xticks(range(len(projections)), projections, rotation=30, ha="right", rotation_mode="anchor")
    step = -(-len(layers) // _MOST_ROWS)
    ax.set_yticks(range(0, len(layers), step), layers[::step])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    _hatch(ax, table)
    if len(projections) <= _MOST_COLUMNS and len(layers) <= _MOST_ROWS:
        _write(ax, image, table)
    _add_colour_bar(ax, image, label)
    return ax


def _hatch(ax: Axes, table: np.ndarray[Any, Any]) -> None:
    for row, column in np.argwhere(np.isnan(table)):
        corner = (float(column) - 0.5, float(row) - 0.5)
        ax.add_patch(Rectangle(corner, 1, 1, facecolor="white", edgecolor=PALE, hatch="////", linewidth=0, alpha=0.5))


def _write(ax: Axes, image: AxesImage, table: np.ndarray[Any, Any]) -> None:
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            dark = sum(image.to_rgba(np.array([value]))[0, :3]) < 1.5
            ink = "white" if dark else INK
            ax.text(column, row, compact(float(value)), ha="center", va="center", color=ink, fontsize=SMALL - 1)


def _add_colour_bar(ax: Axes, image: AxesImage, label: str) -> None:
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02, aspect=40)
    if isinstance(image.norm, LogNorm):
        bar.set_ticks(LogLocator(subs=(1, 2, 5)))
    bar.set_label(label, fontsize=TEXT, color=INK)
    bar.ax.tick_params(labelsize=SMALL, color=PALE, which="both")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.outline.set_visible(False)


def _table(values: Mapping[tuple[Any, Any], float | None]) -> tuple[list[str], list[str], np.ndarray[Any, Any]]:
    """The names of rows and columns, and the numbers, NaN where there is none."""
    if not isinstance(values, Mapping):
        msg = f"heat_map takes a mapping from (layer, projection) to a number, got {type(values).__name__}"
        raise BackendError(msg)
    for key in values:
        if not isinstance(key, tuple) or len(key) != 2:
            msg = f"the keys of a heat map are pairs (layer, projection), got {key!r:.60}"
            raise ShapeError(msg)
    given = {key: value for key, value in values.items() if value is not None}
    if not given:
        msg = f"a heat map needs at least one number, got {len(values)} cell(s), all of them empty"
        raise ShapeError(msg)
    layers, projections = (list(dict.fromkeys(key[axis] for key in values)) for axis in (0, 1))
    table = np.full((len(layers), len(projections)), np.nan)
    for (layer, projection), value in given.items():
        number = check_numbers([value], name=f"the value of {(layer, projection)}")
        table[layers.index(layer), projections.index(projection)] = number[0]
    return list(map(str, layers)), list(map(str, projections)), table

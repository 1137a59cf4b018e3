"""The pictures of the page, as SVG in base64."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ttlib.checkpoint.analysis import CheckpointAnalysis
from ttlib.checkpoint.planning import pareto_curve
from ttlib.checkpoint.selection import by_place, place
from ttlib.checkpoint.smallest import smallest
from ttlib.checkpoint.weight import WeightAnalysis
from ttlib.plot import heat_map, pareto, spectrum

_MOST_SPECTRA = 8
_FEW_VALUES = 8


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture and what it shows."""

    caption: str
    svg: str  # in base64


def pictures(analysis: CheckpointAnalysis) -> Iterator[Picture]:
    """Yield the pictures of an analysis: where it can be compressed, at which price, and why."""
    if not analysis.weights:
        return
    eps = max(analysis.settings.eps)
    values = {weight.name: smallest(weight, eps).compression for weight in analysis.weights}
    yield Picture(
        f"How many times smaller the smallest train of each weight is at a relative error of {eps:g}; 1 where none is",
        _svg(heat_map(by_place(values), label="times smaller")),
    )
    curve = [(point.parameters, point.error) for point in pareto_curve(analysis)]
    yield Picture(
        "What a budget for all weights together buys: root mean square of their relative errors, at most",
        _svg(pareto(curve)),
    )
    for weight in _examples(analysis):
        yield Picture(
            f"Singular values of {weight.name}, {weight.rows} x {weight.cols}, between rows and columns",
            _svg(spectrum({"rows | columns": weight.spectra[weight.rows]})),
        )


def _examples(analysis: CheckpointAnalysis) -> list[WeightAnalysis]:
    """One weight of each projection, from the middle of the model; a spectrum of a few values says nothing."""
    by_projection: dict[str, list[WeightAnalysis]] = {}
    for weight in (own for own in analysis.weights if min(own.rows, own.cols) >= _FEW_VALUES):
        by_projection.setdefault(place(weight.name)[1], []).append(weight)
    middle = [weights[len(weights) // 2] for weights in by_projection.values()]
    return middle[:_MOST_SPECTRA]


def _svg(ax: Axes) -> str:
    figure, buffer = ax.figure, io.BytesIO()
    assert isinstance(figure, Figure)  # noqa: S101  # ours, and no part of another
    # Text stays text, and the same analysis gives the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ttlib"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return base64.b64encode(buffer.getvalue()).decode()

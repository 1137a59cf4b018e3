"""Names beside the points they belong to, none on top of another or of what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from benchmarks.paper.report.figures.style import PALE

_FONT = 9
_GAP = 2.0  # points around everything
_DISTANCES = (8.0, 14.0, 22.0, 32.0, 44.0, 60.0)  # points from the marker to the nearest edge of the text
_DIRECTIONS = 16
_NEAR = 16.0  # a text that is farther away gets a line to its point
_SWEEPS = 4
_BEADS = 4  # that stand for a line when overlaps are counted


@dataclass(frozen=True, slots=True)
class Label:
    """A text for a point, in the coordinates of the data."""

    text: str
    x: float
    y: float


def place(ax: Axes, labels: Sequence[Label], obstacles: Sequence[tuple[float, float, float, float]]) -> None:
    """Write every label near its point, with a thin line between them where it is not close by.

    *obstacles* are upright rectangles (x0, y0, x1, y1) in data coordinates that no text should cover.  Texts take turns
    in choosing the cheapest of some places around their point, given where the others are; a few rounds are enough.
    The limits of the axes must be final.
    """
    figure = ax.figure.get_figure(root=True)
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # lays the axes out: only now are there pixels to measure with
    scale = figure.dpi / 72  # pixels a point
    anchors = ax.transData.transform([(label.x, label.y) for label in labels])
    drawn = np.array([_pixels(ax, own) for own in obstacles]).reshape(-1, 4)
    fixed = _wider(np.vstack([drawn, np.hstack([anchors, anchors])]), _GAP * scale)
    places = [
        _around(anchor, _size(ax, label.text, canvas), scale) for anchor, label in zip(anchors, labels, strict=True)
    ]
    # A place is a text and the line that leads to it: neither should lie on another text or line.
    parts = [_parts(anchor, own, _GAP * scale) for anchor, own in zip(anchors, places, strict=True)]
    frame = np.array(ax.get_window_extent().extents)
    costs = [_lengths(anchor, own) + _outside(own, frame) for anchor, own in zip(anchors, places, strict=True)]
    costs = [cost + _overlap(own, fixed) for cost, own in zip(costs, parts, strict=True)]
    chosen = [int(cost.argmin()) for cost in costs]
    for _ in range(_SWEEPS):
        for at, own in enumerate(parts):
            others = [parts[other][choice] for other, choice in enumerate(chosen) if other != at]
            chosen[at] = int((costs[at] + _overlap(own, np.vstack([np.empty((0, 4)), *others]))).argmin())
    for label, anchor, own, choice in zip(labels, anchors, places, chosen, strict=True):
        _write(ax, label, (_centre(own[choice]) - anchor) / scale, _distance(own[choice], anchor) / scale)


def _size(ax: Axes, text: str, canvas: FigureCanvasAgg) -> tuple[float, float]:
    artist = ax.text(0, 0, text, fontsize=_FONT)
    extent = artist.get_window_extent(canvas.get_renderer())
    artist.remove()
    return extent.width, extent.height


def _pixels(ax: Axes, rectangle: tuple[float, float, float, float]) -> np.ndarray:
    corners = ax.transData.transform(np.reshape(rectangle, (2, 2)))
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def _around(anchor: np.ndarray, size: tuple[float, float], scale: float) -> np.ndarray:
    """Boxes around a point, right of it first: as many directions at each distance, the near ones first."""
    half = np.array(size) / 2
    boxes = []
    for distance in _DISTANCES:
        for angle in 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS:
            direction = np.array([np.cos(angle), np.sin(angle)])
            # the centre lies where the ray leaves the box, so that all directions leave the same gap
            reach = min(half / np.maximum(np.abs(direction), 1e-9))
            centre = anchor + direction * (reach + distance * scale)
            boxes.append(np.concatenate([centre - half, centre + half]))
    return np.array(boxes)


def _parts(anchor: np.ndarray, boxes: np.ndarray, gap: float) -> np.ndarray:
    """Each box with a gap around it, and small ones along the line that leads there."""
    along = np.linspace(0.3, 0.9, _BEADS)[None, :, None]
    beads = anchor + along * (_centre(boxes)[:, None] - anchor)
    return np.concatenate([_wider(boxes[:, None], gap), _wider(np.concatenate([beads, beads], axis=2), gap)], axis=1)


def _wider(boxes: np.ndarray, gap: float) -> np.ndarray:
    return boxes + gap * np.array([-1, -1, 1, 1])


def _centre(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _overlap(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that the parts of each place share with all of the others."""
    low = np.maximum(places[:, :, None, :2], others[:, :2])
    high = np.minimum(places[:, :, None, 2:], others[:, 2:])
    return np.prod(np.clip(high - low, 0, None), axis=3).sum(axis=(1, 2))


def _outside(boxes: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """How far each box sticks out of the frame, which is worse than any overlap."""
    beyond = np.concatenate([frame[:2] - boxes[:, :2], boxes[:, 2:] - frame[2:]], axis=1)
    return 1000 * np.clip(beyond, 0, None).sum(axis=1)


def _lengths(anchor: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return np.hypot(*(_centre(boxes) - anchor).T)


def _distance(box: np.ndarray, point: np.ndarray) -> float:
    return float(np.hypot(*np.clip(np.maximum(box[:2] - point, point - box[2:]), 0, None)))


def _write(ax: Axes, label: Label, offset: np.ndarray, distance: float) -> None:
    line = {"arrowstyle": "-", "color": PALE, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4}
    ax.annotate(
        label.text,
        (label.x, label.y),
        xytext=tuple(offset),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=_FONT,
        arrowprops=line if distance > _NEAR else None,
    )

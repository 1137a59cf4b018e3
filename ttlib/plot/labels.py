"""Names beside the points they belong to, none on top of another or of what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ttlib.plot.style import INK, PALE

Boxes: TypeAlias = np.ndarray[Any, Any]  # (…, 4): x0, y0, x1, y1 in pixels
Rectangle: TypeAlias = tuple[float, float, float, float]

_FONT = 9
_GAP = 2.0  # points around everything
_DISTANCES = (6.0, 12.0, 20.0, 30.0, 44.0, 60.0)  # points from the marker to the nearest edge of the text
_DIRECTIONS = 16
_NEAR = 14.0  # a text that is farther away gets a line to its point
_SWEEPS = 4
_BEADS = 4  # that stand for a line when overlaps are counted


@dataclass(frozen=True, slots=True)
class Label:
    """A text for a point, in the coordinates of the data."""

    text: str
    x: float
    y: float
    colour: str = INK


def place(ax: Axes, labels: Sequence[Label], obstacles: Sequence[Rectangle]) -> None:
    """Write every label near its point, with a thin line between them where it is not close by.

    *obstacles* are upright rectangles (x0, y0, x1, y1) in data coordinates that no text should cover.  Texts take turns
    in choosing the cheapest of some places around their point, given where the others are; a few rounds are enough.
    The limits of the axes must be final.
    """
    if not labels:
        return
    figure = ax.figure.get_figure(root=True)
    assert isinstance(figure, Figure)  # noqa: S101  # the root of a tree of subfigures
    figure.draw_without_rendering()  # lays the axes out: only now are there pixels to measure with
    scale = figure.dpi / 72  # pixels a point
    anchors = ax.transData.transform([(label.x, label.y) for label in labels])
    drawn = np.array([_pixels(ax, own) for own in obstacles]).reshape(-1, 4)
    fixed = _wider(np.vstack([drawn, np.hstack([anchors, anchors])]), _GAP * scale)
    places = [_around(anchor, _size(ax, own.text), scale) for anchor, own in zip(anchors, labels, strict=True)]
    for label, anchor, box in zip(labels, anchors, _settle(anchors, places, fixed, ax, scale), strict=True):
        _write(ax, label, (_centre(box) - anchor) / scale, _distance(box, anchor) / scale)


def _settle(anchors: Boxes, places: Sequence[Boxes], fixed: Boxes, ax: Axes, scale: float) -> list[Boxes]:
    """Choose a place for each text.

    A place is a text and the line that leads to it: neither should lie on another text or line.
    """
    parts = [_parts(anchor, own, _GAP * scale) for anchor, own in zip(anchors, places, strict=True)]
    frame = np.array(ax.get_window_extent().extents)
    costs = [_lengths(anchor, own) + _outside(own, frame) for anchor, own in zip(anchors, places, strict=True)]
    costs = [cost + _overlap(own, fixed) for cost, own in zip(costs, parts, strict=True)]
    chosen = [int(cost.argmin()) for cost in costs]
    for _ in range(_SWEEPS):
        for at, own in enumerate(parts):
            others = [parts[other][choice] for other, choice in enumerate(chosen) if other != at]
            chosen[at] = int((costs[at] + _overlap(own, np.vstack([np.empty((0, 4)), *others]))).argmin())
    return [own[choice] for own, choice in zip(places, chosen, strict=True)]


def _size(ax: Axes, text: str) -> tuple[float, float]:
    artist = ax.text(0, 0, text, fontsize=_FONT)
    extent = artist.get_window_extent()
    artist.remove()
    return extent.width, extent.height


def _pixels(ax: Axes, rectangle: Rectangle) -> Boxes:
    corners = ax.transData.transform(np.reshape(rectangle, (2, 2)))
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def _around(anchor: Boxes, size: tuple[float, float], scale: float) -> Boxes:
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


def _parts(anchor: Boxes, boxes: Boxes, gap: float) -> Boxes:
    """Each box with a gap around it, and small ones along the line that leads there."""
    along = np.linspace(0.3, 0.9, _BEADS)[None, :, None]
    beads = anchor + along * (_centre(boxes)[:, None] - anchor)
    return np.concatenate([_wider(boxes[:, None], gap), _wider(np.concatenate([beads, beads], axis=2), gap)], axis=1)


def _wider(boxes: Boxes, gap: float) -> Boxes:
    wide: Boxes = boxes + gap * np.array([-1, -1, 1, 1])
    return wide


def _centre(boxes: Boxes) -> Boxes:
    centre: Boxes = (boxes[..., :2] + boxes[..., 2:]) / 2
    return centre


def _overlap(places: Boxes, others: Boxes) -> Boxes:
    """The area that the parts of each place share with all of the others."""
    low = np.maximum(places[:, :, None, :2], others[:, :2])
    high = np.minimum(places[:, :, None, 2:], others[:, 2:])
    area: Boxes = np.prod(np.clip(high - low, 0, None), axis=3).sum(axis=(1, 2))
    return area


def _outside(boxes: Boxes, frame: Boxes) -> Boxes:
    """How far each box sticks out of the frame, which is worse than any overlap."""
    beyond = np.concatenate([frame[:2] - boxes[:, :2], boxes[:, 2:] - frame[2:]], axis=1)
    cost: Boxes = 1000 * np.clip(beyond, 0, None).sum(axis=1)
    return cost


def _lengths(anchor: Boxes, boxes: Boxes) -> Boxes:
    length: Boxes = np.hypot(*(_centre(boxes) - anchor).T)
    return length


def _distance(box: Boxes, point: Boxes) -> float:
    return float(np.hypot(*np.clip(np.maximum(box[:2] - point, point - box[2:]), 0, None)))


def _write(ax: Axes, label: Label, offset: Boxes, distance: float) -> None:
    line = {"arrowstyle": "-", "color": PALE, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4}
    ax.annotate(
        label.text,
        (label.x, label.y),
        xytext=(float(offset[0]), float(offset[1])),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=_FONT,
        color=label.colour,
        arrowprops=line if distance > _NEAR else None,
    )

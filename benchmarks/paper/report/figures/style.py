"""One look for all figures: a colour and a marker for each method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

WIDTH = 9.0  # inches, for the 900 pixels of a page: a point of type is there about 1.4 pixels
INK, PALE, FAINT = "#222222", "#666666", "#dddddd"

# On top of matplotlib's own defaults, whatever the reader's settings: the same lines give the same bytes.
STYLE: Mapping[str, Any] = MappingProxyType(
    {
        "font.size": 10,
        "axes.labelsize": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 10,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": PALE,
        "axes.labelcolor": INK,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "text.color": INK,
        "xtick.color": PALE,
        "ytick.color": PALE,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "lines.linewidth": 1.6,
        "lines.markersize": 6,
        "svg.hashsalt": "ttlib",  # names inside the file are otherwise drawn at random
    }
)


@dataclass(frozen=True, slots=True)
class Look:
    """How a line or a point is drawn; a hollow marker is a control."""

    colour: str
    marker: str
    hollow: bool = False
    dashes: str | tuple[int, tuple[int, ...]] = "-"

    @property
    def artist(self) -> dict[str, Any]:
        """The look as arguments of matplotlib."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markerfacecolor": "white" if self.hollow else self.colour,
            "markeredgecolor": self.colour,
            "linestyle": self.dashes,
        }


# Okabe and Ito's colours and a brown: colour-blind readers can tell them apart.  Relatives share one, not a marker.
_BLACK, _BROWN, _GREY = "#000000", "#5e3c20", "#777777"
_ORANGE, _SKY, _GREEN, _BLUE, _VERMILION, _PURPLE = "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7"

METHOD_LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "loretta-adp": Look(_VERMILION, "o"),
        "loretta-rep": Look(_BLUE, "s"),
        "lora-8": Look(_GREEN, "^"),
        "lora-4": Look(_GREEN, "v"),
        "adapters-64": Look(_PURPLE, "D"),
        "adapters-8": Look(_PURPLE, "d"),
        "full": Look(_BLACK, "*"),
        "tt-lora": Look(_SKY, "p"),
        "meta-tt": Look(_SKY, "h"),
        "bitfit": Look(_ORANGE, "X"),
        "ia3": Look(_ORANGE, "P"),
        "prefix": Look(_BROWN, "<"),
        "prompt": Look(_BROWN, ">"),
        "p-tuning": Look(_BROWN, "8"),
        "norms-head": Look(_BLACK, "D", hollow=True, dashes=":"),
        "head": Look(_BLACK, "o", hollow=True, dashes=":"),
    }
)
_UNKNOWN = Look(_GREY, "x")

# The variants of one method, in the order of the study: dashes as well, for no marker would fit on so many points.
VARIANT_LOOKS = (
    Look(_BLUE, "", dashes="-"),
    Look(_VERMILION, "", dashes="--"),
    Look(_GREEN, "", dashes="-."),
    Look(_BLACK, "", dashes=":"),
    Look(_PURPLE, "", dashes=(0, (5, 1, 1, 1, 1, 1))),
    Look(_ORANGE, "", dashes=(0, (8, 2))),
)


def look(method: str) -> Look:
    """The colour and marker of a method, the same in all figures."""
    return METHOD_LOOKS.get(method, _UNKNOWN)

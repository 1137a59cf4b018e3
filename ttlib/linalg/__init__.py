"""Truncated singular value decomposition of one matrix: one file a driver, `truncation` picks and cuts."""

from __future__ import annotations

from ttlib.linalg.columns import Columns, Compression, compressions
from ttlib.linalg.protocol import PartialSVD, SVDDriver
from ttlib.linalg.sketch import pays as sketch_pays
from ttlib.linalg.truncation import DRIVERS, Cut, TruncatedSVD, TruncationOptions, resolve_driver, truncated_svd
from ttlib.linalg.truncation_rule import TruncationRule

__all__ = [
    "DRIVERS",
    "Columns",
    "Compression",
    "Cut",
    "PartialSVD",
    "SVDDriver",
    "TruncatedSVD",
    "TruncationOptions",
    "TruncationRule",
    "compressions",
    "resolve_driver",
    "sketch_pays",
    "truncated_svd",
]

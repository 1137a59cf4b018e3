"""Truncated singular value decomposition of one matrix: one file a driver, `truncation` picks and cuts."""

from __future__ import annotations

from ttlib.linalg.protocol import PartialSVD, SVDDriver
from ttlib.linalg.truncation import DRIVERS, TruncatedSVD, TruncationOptions, resolve_driver, truncated_svd
from ttlib.linalg.truncation_rule import TruncationRule

__all__ = [
    "DRIVERS",
    "PartialSVD",
    "SVDDriver",
    "TruncatedSVD",
    "TruncationOptions",
    "TruncationRule",
    "resolve_driver",
    "truncated_svd",
]

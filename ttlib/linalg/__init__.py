"""Truncated singular value decomposition of one matrix: one file a driver, `truncation` picks and cuts."""

from __future__ import annotations

from ttlib.linalg.truncation import DRIVERS, TruncatedSVD, resolve_driver, truncated_svd

__all__ = ["DRIVERS", "TruncatedSVD", "resolve_driver", "truncated_svd"]

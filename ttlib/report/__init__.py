"""The analysis of a checkpoint as one HTML page that needs nothing else: no network, no other file.

The pictures need matplotlib, the page itself any browser.
"""

from __future__ import annotations

from ttlib.report.page import write_report

__all__ = ["write_report"]

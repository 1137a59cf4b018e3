"""Bridges to the neighbours: tensorly, quimb, torchtt, and plain lists of cores.

Each bridge imports its neighbour when it is called, and hands arrays over without copying them where it can.
"""

from __future__ import annotations

from ttlib.interop.plain import from_cores
from ttlib.interop.quimb import from_quimb, to_quimb
from ttlib.interop.tensorly import from_tensorly, to_tensorly
from ttlib.interop.torchtt import from_torchtt, to_torchtt

__all__ = [
    "from_cores",
    "from_quimb",
    "from_tensorly",
    "from_torchtt",
    "to_quimb",
    "to_tensorly",
    "to_torchtt",
]

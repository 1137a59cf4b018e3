"""Engines: they run many independent tasks, in this process, on the cores of this machine or on a cluster."""

from __future__ import annotations

from ttlib.checkpoint.engines.dask import DaskEngine
from ttlib.checkpoint.engines.local import LocalEngine
from ttlib.checkpoint.engines.protocol import Engine, Outcome, Task

__all__ = ["DaskEngine", "Engine", "LocalEngine", "Outcome", "Task"]

"""Adaptive tensor ranks: one budget of parameters that moves between layers and bonds while an adapter is trained."""

from __future__ import annotations

from ttlib_peft.rank_adaptation.allocator import RankAllocator
from ttlib_peft.rank_adaptation.callback import RankBudgetCallback

__all__ = ["RankAllocator", "RankBudgetCallback"]

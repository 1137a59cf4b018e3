"""Where a layer has its factors from: kept from last time, contracted with its group, or contracted now."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ttlib_peft.assembly import Contracted, Factors, Start, assemble, pack, plain_factors
from ttlib_peft.eager import is_ordinary
from ttlib_peft.grouping import FactorGroup, Sources, Trains, sources_of
from ttlib_peft.snapshot import Snapshot


class FactorKeeper:
    """The factors of one layer, never stale.

    Where no gradient is asked for, they are kept, and used again while the cores hold the same numbers.  Where one
    is, they come from the layer's group, if it has one, or are contracted.  Copies of a layer keep nothing.
    """

    def __init__(self) -> None:
        self.group: FactorGroup | None = None
        self._kept: tuple[Snapshot, Factors] | None = None
        self._start: tuple[Snapshot, Start] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"group": self.group, "_kept": None, "_start": None}

    def factors(self, trains: Trains, *, training: bool, offset: Tensor | None = None) -> Factors:
        """Return the factors of the product of *trains*, minus *offset* in every entry.

        *training* tells that the cores are about to change, so that nothing is kept for later.
        """
        sources = sources_of(trains)
        if not is_ordinary() or not all(type(flat) in (nn.Parameter, Tensor) for flat in sources.flats):
            return with_offset(plain_factors(*sources), offset)
        if any("_is_fsdp_managed_module" in getattr(train, "__dict__", ()) for train in trains):
            # FSDP refills parameters without counting a version, and reduces a unit's gradients when its own
            # backward ends: nothing may be kept, or shared with another unit
            return with_offset(self._contract(sources), offset)
        moving = any(flat.requires_grad for flat in sources.flats)
        if not moving or not (training or torch.is_grad_enabled()):
            return self._constant(sources, offset)
        self._kept = None
        factors = self.group.take(trains, sources) if self.group is not None and torch.is_grad_enabled() else None
        if factors is None:
            factors = self._contract(sources)
        else:
            self._start = None  # the group's serves
        return with_offset(factors, offset)

    def _contract(self, sources: Sources) -> Factors:
        layout, flats, starts = sources
        if starts is None:
            self._start = None
        elif self._start is None or not self._start[0].holds(starts):
            self._start = Snapshot(starts), Start(layout, [starts])
        start = None if self._start is None else self._start[1]
        return assemble(Contracted(layout, pack([flats]), start), flats)[0]

    def _constant(self, sources: Sources, offset: Tensor | None) -> Factors:
        made_from = sources.tensors() if offset is None else (*sources.tensors(), offset.reshape(1))
        if self._kept is None or not self._kept[0].holds(made_from):
            # tensors made in inference mode could not be used where x has a gradient
            with torch.inference_mode(False), torch.no_grad():
                self._kept = Snapshot(made_from), with_offset(self._contract(sources), offset)
            self._start = None
        return self._kept[1]


def with_offset(factors: Factors, offset: Tensor | None) -> Factors:
    """Return factors of U V - offset, the same number taken from every entry."""
    if offset is None:
        return factors
    pt, q, _ = factors  # who subtracts a mean keeps no start
    shift = -offset.to(q.dtype) * q.new_ones((1, q.shape[1]))
    return Factors(torch.cat([pt, pt.new_ones((1, pt.shape[1]))]), torch.cat([q, shift]))

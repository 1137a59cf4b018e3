"""Contract the factors of all layers of one layout together: a few batched products a step in place of a few a layer.

Layers that share a `FactorGroup` get the factors of one *generation*: the first that asks contracts for all.  A
generation serves a layer while the numbers it was made from are the layer's and no backward pass has come through;
then the next is made.  So nothing has to be told when a step ends, adapters come and go, or a layer is skipped: a
layer that did not ask is left out of the next generation, and one that asks for the first time is served alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ttlib_peft.assembly import Contracted, Factors, Layout, Start, Train, assemble, pack, sizes_of
from ttlib_peft.eager import in_backward
from ttlib_peft.snapshot import Snapshot


class PackedTrain(Protocol):
    """A module with the cores of one train in one flat parameter, and perhaps their start."""

    train_shapes: Train
    flat: nn.Parameter
    initial: Tensor | None


# The modules that one layer's factors come from: one train, or two that are multiplied.
Trains = tuple[PackedTrain, ...]


class Sources(NamedTuple):
    """All that the factors of a layer are contracted from."""

    layout: Layout
    flats: tuple[Tensor, ...]
    starts: tuple[Tensor, ...] | None

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the flats and the starts."""
        return self.flats if self.starts is None else self.flats + self.starts


def sources_of(trains: Trains) -> Sources:
    """Read the trains of a layer.  One that has no start beside one that has starts at zero."""
    layout = tuple([train.train_shapes for train in trains])
    flats = tuple([train.flat for train in trains])
    kept = [train.initial for train in trains]
    if all(start is None for start in kept):
        return Sources(layout, flats, None)
    starts = [
        torch.zeros_like(flat) if start is None else start if start.dtype == flat.dtype else start.to(flat.dtype)
        for start, flat in zip(kept, flats, strict=True)
    ]
    return Sources(layout, flats, tuple(starts))


class FactorGroup:
    """Layers whose factors are contracted together.  It holds no layer: it is as empty in a copy as when made."""

    def __init__(self) -> None:
        self._lines: dict[Any, _Line] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_lines": {}}

    def take(self, trains: Trains, sources: Sources) -> Factors | None:
        """Return the factors of a layer with their graph, or None where it has to contract its own."""
        kind = _kind(sources)
        line = self._lines.get(kind)
        if line is None:
            line = self._lines.setdefault(kind, _Line(kind))
        return line.take(trains, sources)


def _kind(sources: Sources) -> Any:
    """What layers must share to be contracted together."""
    flat = sources.flats[0]
    return sources.layout, sources.starts is None, flat.dtype, flat.device


def _can_join(sources: Sources) -> bool:
    """Tell whether these are trained parameters: not views that FSDP or torch.func put there, and not emptied ones."""
    dtype, device = sources.flats[0].dtype, sources.flats[0].device
    for flat, size in zip(sources.flats, sizes_of(sources.layout), strict=True):
        if type(flat) is not nn.Parameter or not flat.requires_grad or flat.numel() != size:
            return False
        if flat.dtype != dtype or flat.device != device:
            return False
    return True


class _Line:
    """The generations of layers of one kind, one after another."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._generation: _Generation | None = None
        self._waiting: list[_Reference] = []  # asked once, and in no generation yet
        self._start: tuple[Snapshot, Start] | None = None

    def take(self, trains: Trains, sources: Sources) -> Factors | None:
        generation = self._generation
        row = None if generation is None else generation.row_of(sources)
        if generation is not None and row is not None:
            factors = generation.factors_of(row, sources)
            if in_backward():  # a checkpoint is recomputed: with what the first pass took, or alone
                return factors if row in generation.taken else None
            if factors is not None:
                generation.taken.add(row)
                return factors
        elif in_backward() or not _can_join(sources):
            return None
        elif all(waiting.trains() != trains for waiting in self._waiting):
            self._waiting.append(_Reference(trains))
            return None
        return self._renew(trains, sources)

    def _renew(self, trains: Trains, sources: Sources) -> Factors | None:
        known = [] if self._generation is None else self._generation.still_used()
        members = {trains: sources}
        for reference in (*known, *self._waiting):
            other = reference.trains()
            if other is not None and other not in members:
                theirs = sources_of(other)
                if _kind(theirs) == self._kind and _can_join(theirs):
                    members[other] = theirs
        self._generation, self._waiting = None, []
        if len(members) == 1:  # alone: what a group adds is not repaid
            self._waiting = [_Reference(trains)]
            return None
        self._generation = generation = _Generation(members, self._start_of(list(members.values())))
        generation.taken.add(0)
        return generation.factors_of(0, sources)

    def _start_of(self, members: Sequence[Sources]) -> Start | None:
        starts = [sources.starts for sources in members if sources.starts is not None]
        if not starts:
            return None
        every = [start for own in starts for start in own]
        if self._start is None or not self._start[0].holds(every):
            self._start = Snapshot(every), Start(members[0].layout, starts)
        return self._start[1]


class _Generation:
    """The factors of some layers at one time."""

    def __init__(self, members: dict[Trains, Sources], start: Start | None) -> None:
        layout = next(iter(members.values())).layout
        self._flats = [sources.flats for sources in members.values()]  # held, so that their ids stay theirs
        made_from = [sources.tensors() for sources in members.values()]
        packed = pack(made_from)  # (layers, n), or the flats and then the starts of each layer: (layers, 2 n)
        self._seen = [Snapshot(own, packed=row) for own, row in zip(made_from, packed.unbind(), strict=True)]
        self._rows = {_ids(own): row for row, own in enumerate(self._flats)}
        self._references = [_Reference(trains) for trains in members]
        contracted = Contracted(layout, packed[:, : sum(sizes_of(layout))], start)
        flats = [flat for own in self._flats for flat in own]
        self._factors: list[Factors] | None = assemble(contracted, flats, _forgetting(self))
        self.taken: set[int] = set()

    def row_of(self, sources: Sources) -> int | None:
        """Return which member this is, if it is one."""
        return self._rows.get(_ids(sources.flats))

    def factors_of(self, row: int, sources: Sources) -> Factors | None:
        """Return the factors of a member while they are right and unspent."""
        factors = self._factors
        if factors is None or not self._seen[row].holds(sources.tensors()):
            return None
        return factors[row] if all(flat.requires_grad for flat in sources.flats) else None

    def spend(self) -> None:
        """Forget the factors: a backward pass has come through them."""
        self._factors = None

    def still_used(self) -> list[_Reference]:
        """Return the members to be in the next generation: those that used this one, if it was used to the end."""
        return [
            reference
            for row, reference in enumerate(self._references)
            if row in self.taken or self._factors is not None
        ]


def _ids(flats: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple([id(flat) for flat in flats])


def _forgetting(generation: _Generation) -> Callable[[], None]:
    """Return `generation.spend` without keeping the generation alive, whose factors lead back to whoever calls it."""
    reference = weakref.ref(generation)

    def spend() -> None:
        alive = reference()
        if alive is not None:
            alive.spend()

    return spend


class _Reference:
    """The trains of a layer, which it does not keep alive."""

    __slots__ = ("_references",)

    def __init__(self, trains: Trains) -> None:
        self._references = tuple([weakref.ref(train) for train in trains])

    def trains(self) -> Trains | None:
        trains = tuple([reference() for reference in self._references])
        return None if None in trains else trains  # type: ignore[return-value]

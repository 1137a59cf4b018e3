"""What all ranks do together: one acts and tells the others how it went, so that none waits for what will not come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from ttlib.errors import TTError

T = TypeVar("T")


class PeerError(TTError, RuntimeError):
    """What went wrong on rank 0, told to the other ranks so that they do not wait for it."""


def is_distributed() -> bool:
    """Tell whether there is a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the number of this process; 0 where it is alone."""
    return dist.get_rank() if is_distributed() else 0


def from_all(value: T) -> list[T]:
    """Return the value that each rank calls this with, in the order of the ranks."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_rank_zero(action: Callable[[], T]) -> T:
    """Do something on rank 0 and return the result on every rank; what it raises there is raised on all."""
    if not is_distributed():
        return action()
    outcome: list[Any] = [None, None]
    failure: Exception | None = None
    if dist.get_rank() == 0:
        try:
            outcome[0] = action()
        except Exception as error:  # all of them: the others are waiting
            failure, outcome[1] = error, f"{type(error).__name__}: {error}"
    dist.broadcast_object_list(outcome, src=0)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        msg = f"rank 0 failed, so nothing was done: {outcome[1]}"
        raise PeerError(msg)
    return outcome[0]

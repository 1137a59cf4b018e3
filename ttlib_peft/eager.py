"""When tensors hold their numbers and only reverse mode follows: the ordinary state, in which shortcuts are safe."""

from __future__ import annotations

import contextlib

import torch
from torch.autograd import forward_ad


def is_ordinary() -> bool:
    """Tell whether nothing compiles, traces, transforms, intercepts or differentiates forward what is calculated here.

    >>> is_ordinary()
    True
    >>> with torch.autograd.forward_ad.dual_level():
    ...     is_ordinary()
    False

    Everywhere else a layer calculates with ordinary operations, the same ones each time: compilers, torch.func and
    modes that replay operations (selective checkpointing) understand those.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
    )


def in_backward() -> bool:
    """Tell whether the autograd engine is running this: so recomputes a checkpoint, whichever kind it is."""
    return torch._C._current_graph_task_id() != -1


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype that torch.autocast multiplies in on a device, None where it is off.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     autocast_dtype(torch.device("cpu")), autocast_dtype(torch.device("meta"))
    (torch.bfloat16, None)
    """
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Keep what follows in the dtype of its operands, also inside torch.autocast."""
    if autocast_dtype(device) is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)

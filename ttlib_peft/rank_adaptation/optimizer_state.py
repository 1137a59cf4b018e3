"""What an optimiser remembers of a parameter, cut down with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ttlib.errors import ShapeError


def check_can_be_cut(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    """Raise ShapeError where the optimiser keeps something that is not one number for each entry, or one for all."""
    for parameter in parameters:
        for name, value in optimizer.state.get(parameter, {}).items():
            if not _is_entrywise(value, parameter) and not _is_number(value):
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                msg = (
                    f"{type(optimizer).__name__} keeps {name!r} ({shape}) for a parameter of shape "
                    f"{tuple(parameter.shape)}, which cannot be cut down with it: use an optimiser that keeps tensors "
                    "of the parameter's shape (Adam, AdamW, SGD, RMSprop, Adagrad, Lion, …), or pass none"
                )
                raise ShapeError(msg)


def cut(optimizer: Optimizer, old: nn.Parameter, new: nn.Parameter, entries: Tensor) -> None:
    """Put *new* in the place of *old*, with what was kept for the *entries* of it that are left."""
    for group in optimizer.param_groups:
        group["params"][:] = [new if parameter is old else parameter for parameter in group["params"]]
    state = optimizer.state.pop(old, None)
    if state is not None:
        optimizer.state[new] = {
            name: value[entries] if _is_entrywise(value, old) else value for name, value in state.items()
        }


def _is_entrywise(value: Any, parameter: nn.Parameter) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.ndim == 0)

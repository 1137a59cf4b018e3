"""What an adapter will touch, told before it is made."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from torch import nn

from ttlib_peft.accounting import trainable_parameters
from ttlib_peft.config import TensorAdapterConfig
from ttlib_peft.layer import TensorAdapterLayer
from ttlib_peft.tuner import tt_modules

_ADAPTER = "default"


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """Modules that are called alike and adapted alike.

    Attributes:
        pattern: their name, with * for the number of the layer.
        modules: their full names.
        sizes: (in, out) of the frozen layer.
        role: "update", "after", "before", or "beside" or "instead" of a tensorised layer.
        trains: shape, ranks and position of the split of each tensor train.
        parameters: trained numbers in one of them.
        matrix_rank: the largest rank its matrices can have: the least bond at a split.
        nominal_rank: r, or the bottleneck; where it is larger than `matrix_rank`, it is a size and not a rank.
    """

    pattern: str
    modules: tuple[str, ...]
    sizes: tuple[int, int]
    role: str
    trains: tuple[tuple[tuple[int, ...], tuple[int, ...], int], ...]
    parameters: int
    matrix_rank: int
    nominal_rank: int


@dataclass(frozen=True, slots=True)
class TargetExplanation:
    """What `explain_targets` found; printing it shows a table."""

    groups: tuple[TargetGroup, ...]
    trainable: dict[str, int]

    def __str__(self) -> str:
        head = ("modules", "count", "in x out", "adapter", "shape | split", "ranks", "parameters", "matrix rank")
        rows = [head, *(row for group in self.groups for row in _rows(group))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        counted = ", ".join(f"{kind} {number:,}" for kind, number in self.trainable.items())
        return "\n".join([*lines, f"trained: {counted}"])


def explain_targets(model: nn.Module, config: TensorAdapterConfig) -> TargetExplanation:
    """Say which modules of *model* an adapter would touch, where, with which shapes, ranks and parameters.

    >>> import torch, ttlib_peft
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
    >>> shapes = {"64x8": [8, 8, 8], "8x64": [8, 8, 8]}
    >>> config = ttlib_peft.LorettaRepConfig(target_modules=["0", "2"], tensor_shape=shapes)
    >>> print(ttlib_peft.explain_targets(model, config))
    modules  count  in x out  adapter  shape | split  ranks    parameters  matrix rank
    *        2      64 x 64   update   8 8 | 8        1 5 5 1  560         5 (of 8)
                                       8 | 8 8        1 5 5 1
    trained: adapters 1,120, norms 0, head 0, body 0, total 1,120

    The adapter is put into a copy of the model without numbers, so what is told is what `get_peft_model` does, and
    what it refuses is refused here with the same error.  Neither *model* nor *config* is changed.
    """
    # Parameters are replaced by empty ones while copying, so that a model of any size costs nothing.
    empty = {id(own): nn.Parameter(own.detach().to("meta"), own.requires_grad) for own in model.parameters()}
    buffers = {id(own): own.to("meta") for own in model.buffers()}
    skeleton = copy.deepcopy(model, {**empty, **buffers})
    own_config = copy.deepcopy(config)
    tuners: dict[Any, Any] = PEFT_TYPE_TO_TUNER_MAPPING  # keyed by any str-enum
    tuner = tuners[own_config.peft_type]
    adapted = tuner(skeleton, {_ADAPTER: own_config}, _ADAPTER)
    grouped: dict[Any, list[str]] = {}
    layers: dict[Any, TensorAdapterLayer] = {}
    for name, layer in skeleton.named_modules():
        if isinstance(layer, TensorAdapterLayer):
            trains = tuple((train.tensor_shape, train.ranks, train.split) for train in tt_modules(layer, _ADAPTER))
            pattern = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
            key = pattern, layer.in_features, layer.out_features, layer.role(_ADAPTER), trains
            grouped.setdefault(key, []).append(name)
            layers[key] = layer
    groups = tuple(_group(key[0], tuple(names), layers[key]) for key, names in grouped.items())
    return TargetExplanation(groups, trainable_parameters(adapted))


def _group(pattern: str, names: Sequence[str], layer: TensorAdapterLayer) -> TargetGroup:
    trains = tt_modules(layer, _ADAPTER)
    return TargetGroup(
        pattern=pattern,
        modules=tuple(names),
        sizes=(layer.in_features, layer.out_features),
        role=layer.role(_ADAPTER),
        trains=tuple((train.tensor_shape, train.ranks, train.split) for train in trains),
        parameters=sum(parameter.numel() for train in trains for parameter in train.parameters()),
        matrix_rank=min((train.matrix_rank for train in trains), default=0),
        nominal_rank=min((train.nominal_rank for train in trains), default=0),
    )


def _rows(group: TargetGroup) -> list[tuple[str, ...]]:
    capped = f" (of {group.nominal_rank})" if group.matrix_rank < group.nominal_rank else ""
    rank = f"{group.matrix_rank}{capped}"
    if not group.trains:  # those of MetaTT live in the first layer of their size
        return [
            (group.pattern, str(len(group.modules)), "{} x {}".format(*group.sizes), group.role, "shared", "", "0", "")
        ]
    rows: list[tuple[str, ...]] = []
    for index, (shape, ranks, split) in enumerate(group.trains):
        modes = f"{_spaced(shape[:split])} | {_spaced(shape[split:])}"
        first = (group.pattern, str(len(group.modules)), "{} x {}".format(*group.sizes), group.role)
        last = f"{group.parameters:,}", rank
        rows.append(
            (*first, modes, _spaced(ranks), *last) if index == 0 else ("", "", "", "", modes, _spaced(ranks), "", "")
        )
    return rows


def _spaced(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))

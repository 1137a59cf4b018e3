"""Layers and models to compare, the two things done with them, and what they keep and launch meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import pairwise
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.profiler import ProfilerActivity, profile

from ttlib_peft import LorettaAdpConfig, LorettaRepConfig

LORA_RANK = 8
METHODS: dict[str, type[Any]] = {"rep": LorettaRepConfig, "adp": LorettaAdpConfig}
# Operators that only look at a tensor anew, or make room: they launch nothing.
_VIEWS = re.compile(
    r"aten::(alias|_reshape_alias|_?unsafe_view|as_strided|chunk|contiguous|detach|empty\w*|expand(_as)?|flatten|item|lift_fresh"
    r"|_local_scalar_dense|movedim|narrow|new_empty\w*|numpy_T|mT|permute|reshape|resize_|resolve_conj|result_type|select|set_"
    r"|slice|split\w*|squeeze|swapaxes|t|to|transpose|type_as|unbind|unflatten|unsqueeze|view(_as)?)"
)


class TwoProducts(nn.Module):
    """LoRA without the frozen layer: x A B through a bond of 8."""

    def __init__(self, rows: int, cols: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rows, LORA_RANK) / rows**0.5)
        self.b = nn.Parameter(torch.randn(LORA_RANK, cols) / LORA_RANK**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return (x @ self.a) @ self.b


class Rebuilt(nn.Module):
    """A tensor-train layer as the LoRETTA reference does it: the dense matrix from all cores at every forward."""

    def __init__(self, rows: int, cols: int, shape: Iterable[int], rank: int) -> None:
        super().__init__()
        modes = tuple(shape)
        self.size = (rows, cols)
        ranks = (1, *[rank] * (len(modes) - 1), 1)
        self.cores = nn.ParameterList(
            torch.randn(a, mode, b) / b**0.5 for mode, (a, b) in zip(modes, pairwise(ranks), strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Rebuild, then multiply."""
        first, *rest = self.cores
        weight = first
        for core in rest:
            weight = torch.tensordot(weight, core, dims=1)
        return x @ weight.reshape(self.size)


class Folded(nn.Module):
    """A layer of a library that wants the features of its input as modes."""

    def __init__(self, layer: nn.Module, modes: Iterable[int]) -> None:
        super().__init__()
        self.layer = layer
        self.modes = tuple(modes)

    def forward(self, x: Tensor) -> Tensor:
        """Fold the input, unfold the output."""
        return self.layer(x.reshape(x.shape[0], *self.modes)).reshape(x.shape[0], -1)


def tltorch_layer(row_modes: tuple[int, ...], col_modes: tuple[int, ...], rank: int) -> nn.Module:
    """tltorch's layer with a TT-matrix weight, contracted core by core."""
    return import_module("tltorch").FactorizedLinear(
        row_modes, col_modes, bias=False, factorization="blocktt", rank=rank, implementation="factorized"
    )


def torchtt_layer(row_modes: tuple[int, ...], col_modes: tuple[int, ...], rank: int) -> nn.Module:
    """torchTT's layer with a TT-matrix weight."""
    ranks = [1, *[rank] * (len(row_modes) - 1), 1]
    return Folded(import_module("torchtt").nn.LinearLayerTT(list(row_modes), list(col_modes), ranks), row_modes)


def loretta_layer(rows: int, cols: int, shape: tuple[int, ...], rank: int) -> nn.Module:
    """The layer of the reference implementation itself."""
    config = import_module("loretta.tensor_layers.utils").config_class(shape=list(shape), ranks=rank)
    layers = import_module("loretta.tensor_layers.layers")
    return layers.TensorizedLinear_module(rows, cols, config, bias=False)


def adapted(config: Any, size: int, *, depth: int = 1, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A stack of frozen (size, size) layers, each with an adapter."""
    torch.manual_seed(0)
    return get_peft_model(nn.Sequential(*(nn.Linear(size, size, dtype=dtype) for _ in range(depth))), config)


def lora(depth: int = 1) -> LoraConfig:
    """PEFT's LoRA of rank 8 on such a stack."""
    return LoraConfig(r=LORA_RANK, target_modules=[str(k) for k in range(depth)])


def training(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """A forward and a backward pass down to the input, as inside a network, on parameters that count as changed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    model.train()
    with torch.no_grad():
        slope = torch.randn_like(model(x))

    def run() -> None:
        x.grad = None
        for parameter in trained:
            parameter.grad = None
        increment_version(trained)  # an optimiser would have stepped: nothing made from them may be used again
        model(x).backward(slope)

    return run


def inference(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """A forward pass in eval mode without gradients."""
    model.eval()

    def run() -> Tensor:
        with torch.no_grad():
            return model(x)

    return run


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward one, beyond inputs, parameters and frozen layers' outputs."""
    known = {t.untyped_storage().data_ptr() for t in (x, *model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    outputs: list[Tensor] = []  # held, so that no other tensor takes their place in memory
    frozen = [module for module in model.modules() if isinstance(module, nn.Linear) and not module.weight.requires_grad]
    hooks = [module.register_forward_hook(lambda *seen: outputs.append(seen[2])) for module in frozen]
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = model(x)
    for hook in hooks:
        hook.remove()
    known |= {output.untyped_storage().data_ptr() for output in outputs}
    del result
    return sum(size for place, size in kept.items() if place not in known)


def kernels(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """How many operators that do something a forward and a backward pass run: on a GPU each would be a kernel."""
    training(model, x)()  # what is made once and kept
    for parameter in model.parameters():
        parameter.grad = None
    x.grad = None
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as forward:
        result = model(x)
    slope = torch.ones_like(result)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as backward:
        result.backward(slope)
    return sum(map(_works, forward.events())), sum(map(_works, backward.events()))


def _works(event: Any) -> bool:
    return _acts(event.name) and not any(_acts(child.name) for child in event.cpu_children)


def _acts(name: str) -> bool:
    return name.startswith("aten::") and not _VIEWS.fullmatch(name)

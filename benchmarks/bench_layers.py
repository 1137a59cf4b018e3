"""Tensor-train layers beside LoRA's two skinny products, the reference's way, and other libraries' layers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import networks
from benchmarks.peers import load
from benchmarks.records import Record
from ttlib_peft import TTLinear

RANK, ROUNDS, DEPTH, BOTTLENECK = 5, 9, 24, 64
TRAINING_COST = {1: 1.35, 16: 1.35, 128: 1.25, 2048: 1.10}  # by tokens; the first two with grouped factors
INFERENCE_COST = 1.05
MORE_KERNELS = 2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOKENS = tuple(TRAINING_COST)
LORA, REBUILT = "LoRA", "rebuilt"


@dataclass(frozen=True)
class Layer:
    """A (rows, cols) matrix as a train; the modes of TT-matrix libraries; the gain wanted over `Rebuilt`."""

    row_modes: tuple[int, ...]
    col_modes: tuple[int, ...]
    shape: tuple[int, ...]
    faster_than_rebuilt: float | None = None  # up to 128 tokens

    @property
    def size(self) -> tuple[int, int]:
        """(rows, cols)."""
        return math.prod(self.row_modes), math.prod(self.col_modes)

    def __str__(self) -> str:
        return f"{self.size[0]} -> {self.size[1]}"

    def others(self) -> dict[str, Callable[[], nn.Module] | None]:
        """The layers of other libraries, None for one that is not installed."""
        rows, cols = self.size
        ways = {
            "tltorch": lambda: networks.tltorch_layer(self.row_modes, self.col_modes, RANK),
            "torchtt": lambda: networks.torchtt_layer(self.row_modes, self.col_modes, RANK),
            "loretta": lambda: networks.loretta_layer(rows, cols, self.shape, RANK),
        }
        return {name: way if load(name) else None for name, way in ways.items()}


LAYERS = [
    Layer((8, 8, 12), (4, 4, 4), (8, 8, 12, 8, 8), 2.5),
    Layer((4, 4, 4), (8, 8, 12), (8, 8, 12, 8, 8)),
    Layer((16, 16, 16), (4, 4, 4), (16, 16, 16, 4, 4, 4), 5),
]
MODES = {"training": networks.training, "inference": networks.inference}


def _cells(tokens: tuple[int, ...]) -> list[Any]:
    """Dtypes and numbers of tokens; marked, what a minute's look takes."""
    quick = ("fp32", 16), ("fp32", 128)
    return [
        pytest.param(dtype, count, marks=[pytest.mark.quick] if (dtype, count) in quick else [])
        for dtype in DTYPES
        for count in tokens
    ]


def _input(tokens: int, size: int, dtype: str) -> torch.Tensor:
    return torch.randn(tokens, size, dtype=DTYPES[dtype], requires_grad=True)


@pytest.mark.parametrize(("dtype", "tokens"), _cells(TOKENS))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def bench_bare(layer: Layer, mode: str, dtype: str, tokens: int, race) -> None:
    """`TTLinear` alone, against LoRA's two products alone and every other way to use such a train."""
    rows, cols = layer.size
    x, act = _input(tokens, rows, dtype), MODES[mode]
    ours = TTLinear(rows, cols, tensor_rank=RANK, shape=layer.shape, bias=False, dtype=DTYPES[dtype])
    products = networks.TwoProducts(rows, cols).to(DTYPES[dtype])
    peers: dict[str, Any] = {
        LORA: act(products, x),
        REBUILT: act(networks.Rebuilt(rows, cols, layer.shape, RANK).to(DTYPES[dtype]), x),
    }
    if dtype == "fp32":
        peers |= {name: make and _made_when_run(make, act, x) for name, make in layer.others().items()}
    record = race(
        table=f"Bare layers, {mode}",
        case=f"{layer}, {dtype}, {tokens} tokens",
        ours=act(ours, x),
        peers=peers,
        rounds=ROUNDS if tokens < 2048 else 3,
    )
    if mode == "inference":
        record.cost(LORA, INFERENCE_COST)
        return
    if tokens >= 128:  # fewer are the business of grouped factors
        record.cost(LORA, TRAINING_COST[tokens])
    if layer.faster_than_rebuilt and tokens <= 128:
        record.speed_up(REBUILT, layer.faster_than_rebuilt)
    _count(record, ours, products, x)
    _ask_for_memory(record, ours, products, x)


def _made_when_run(make: Callable[[], nn.Module], act: Callable[..., Any], x: torch.Tensor) -> Callable[[], Any]:
    made = functools.cache(lambda: act(make(), x))  # at its first use, where a failure is only reported

    def run() -> Any:
        return made()()

    return run


@functools.lru_cache(maxsize=4)  # ours and LoRA's at two sizes: making a large layer takes longer than using it
def _adapted(method: str, size: int, depth: int, dtype: str) -> nn.Module:
    targets = [str(k) for k in range(depth)]
    config = networks.lora(depth) if method == LORA else networks.METHODS[method](target_modules=targets)
    return networks.adapted(config, size, depth=depth, dtype=DTYPES[dtype])


@pytest.mark.parametrize(("dtype", "tokens"), _cells(TOKENS))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [768, 4096])
@pytest.mark.parametrize("method", networks.METHODS)
def bench_adapted(method: str, size: int, mode: str, dtype: str, tokens: int, race, scale) -> None:
    """One frozen layer with its adapter, as PEFT puts it into a model, against the same layer with LoRA."""
    width = 32 if scale.tiny else size
    x = _input(tokens, width, dtype)
    ours, lora = (_adapted(name, width, 1, dtype) for name in (method, LORA))
    record = race(
        table=f"Adapted layers, {mode}",
        case=f"{method}, {size} x {size}, {dtype}, {tokens} tokens",
        ours=MODES[mode](ours, x),
        peers={LORA: MODES[mode](lora, x)},
        rounds=ROUNDS if tokens < 2048 else 3,
    )
    if mode == "inference":
        record.cost(LORA, INFERENCE_COST)
        return
    if tokens >= 128:
        record.cost(LORA, TRAINING_COST[tokens])
    _count(record, ours, lora, x)
    # before and after the activation, in float32, which PEFT keeps adapters in
    bottleneck = 2 * BOTTLENECK * tokens * torch.float32.itemsize
    _ask_for_memory(record, ours, lora, x, bottleneck if method == "adp" else 0)


@pytest.mark.parametrize(("dtype", "tokens"), _cells((1, 16, 128)))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", networks.METHODS)
def bench_grouped(method: str, mode: str, dtype: str, tokens: int, race, scale) -> None:
    """24 adapted layers of one size, whose factors are made together once a step."""
    size, depth = (32, 2) if scale.tiny else (768, 24)
    x = _input(tokens, size, dtype)
    ours, lora = (_adapted(name, size, depth, dtype) for name in (method, LORA))
    record = race(
        table=f"{depth} adapted layers, {mode}",
        case=f"{method}, {size} x {size}, {dtype}, {tokens} tokens",
        ours=MODES[mode](ours, x),
        peers={LORA: MODES[mode](lora, x)},
        rounds=ROUNDS,
    )
    record.facts["CPU µs a layer"] = 1e6 * record.ours.seconds / depth
    if mode == "inference":
        record.cost(LORA, INFERENCE_COST)
        return
    record.cost(LORA, TRAINING_COST[tokens])
    more = _count(record, ours, lora, x, layers=depth)
    record.at_most("kernels beyond LoRA's", more, MORE_KERNELS)


def _count(record: Record, ours: nn.Module, lora: nn.Module, x: torch.Tensor, *, layers: int = 1) -> float:
    """Note the kernels of a layer, forward and backward; return how many more ours has."""
    counts = [[count / layers for count in networks.kernels(model, x)] for model in (ours, lora)]
    for place, direction in enumerate(("forward", "backward")):
        record.facts[f"kernels {direction}: ttlib, LoRA"] = [count[place] for count in counts]
    return sum(counts[0]) - sum(counts[1])


def _ask_for_memory(record: Record, ours: nn.Module, lora: nn.Module, x: torch.Tensor, more: int = 0) -> None:
    """Note what is kept for the backward pass; ask for LoRA's, the cores' and `more` bytes at most."""
    ours_kept, lora_kept = (networks.saved_bytes(model, x) for model in (ours, lora))
    cores = sum(p.numel() * p.element_size() for p in ours.parameters() if p.requires_grad)
    record.facts["saved kB: ttlib, LoRA"] = [ours_kept / 1e3, lora_kept / 1e3]
    record.at_most("saved kB", ours_kept / 1e3, (lora_kept + cores + more) / 1e3)

"""MetaTT: one tensor train for the updates of all layers and projections (2506.09105)."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from peft.utils.integrations import init_empty_weights
from torch import Tensor, nn

from ttlib_peft.assembly import Factors, Train
from ttlib_peft.config import TensorAdapterConfig, TensorPeftType, number
from ttlib_peft.keeper import FactorKeeper
from ttlib_peft.layer import TensorAdapterLayer, start_at_zero
from ttlib_peft.skinny_product import skinny_product
from ttlib_peft.targets import REP_TARGET_MODULES
from ttlib_peft.tt_linear import TTLinear
from ttlib_peft.tuner import TensorAdapterTuner


@dataclass
class MetaTTConfig(TensorAdapterConfig):
    """MetaTT: W'[l, m] = W[l, m] + alpha G1 G2[l] G3[m] G4, l the layer and m the projection (MetaTT-4D of the paper).

    >>> MetaTTConfig(tensor_rank=8, target_modules=["q_proj", "v_proj"]).init_weights
    'residual'

    The modules of one size (in, out) share one train: in r + (L + M) r^2 + r out parameters for L layers and M kinds
    of projection.  With grouped queries q_proj and v_proj have different sizes, and a train each.

    Args:
        tensor_rank, tensor_shape: an int or the three inner ranks; a shape is for `tensorize_modules` alone.
        init_weights: "residual", "zero" or "gaussian".
        alpha, alpha_pattern: the update is scaled by alpha; other values for some modules, as in LoraConfig.

    For the rest see `TensorAdapterConfig`.  Raises ValueError (also as RankError) for impossible values.
    """

    alpha: float = field(default=1.0, metadata={"help": "The update is scaled by alpha."})
    alpha_pattern: dict[str, float] = field(default_factory=dict, metadata={"help": "Other alpha, by module name."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = TensorPeftType.META_TT
        self.alpha = number(self.alpha, "alpha")
        self.alpha_pattern = {name: number(alpha, "alpha") for name, alpha in self.alpha_pattern.items()}
        if own := self.tensor_rank_pattern or (isinstance(self.tensor_shape, list) and self.tensor_shape):
            msg = f"modules share a train of modes (in, L, M, out): no tensor_shape or tensor_rank_pattern, got {own}"
            raise ValueError(msg)
        if self.init_weights in ("paper-mean", "spectral"):
            msg = f"init_weights is for one matrix, got {self.init_weights!r}: use 'residual', 'zero' or 'gaussian'"
            raise ValueError(msg)


class Part(NamedTuple):
    """One layer's part of a train: the outer cores and a slice of each inner one."""

    train_shapes: Train
    flat: Tensor
    initial: Tensor | None


class Cell(NamedTuple):
    """Where a layer stands in a train of modes (in, L, M, out)."""

    train: TTLinear
    layer: int
    kind: int
    keeper: FactorKeeper

    def factors(self, *, training: bool) -> Factors:
        """Return the factors of G1 G2[l] G3[m] G4, cut at its narrowest bond."""
        cores = tuple((a, n if i in (0, 3) else 1, b) for i, (a, n, b) in enumerate(self.train.core_shapes))
        shapes = Train(cores, 1 + min(range(3), key=self.train.ranks[1:4].__getitem__))
        initial = None if self.train.initial is None else self._cut(self.train.initial)
        part: Any = Part(shapes, self._cut(self.train.flat), initial)
        return self.keeper.factors((part,), training=training)

    def _cut(self, flat: Tensor) -> Tensor:
        first, by_layer, by_kind, last = self.train.train_shapes.unpack(flat)
        return torch.cat([core.flatten() for core in (first, by_layer[:, self.layer], by_kind[:, self.kind], last)])


class MetaTTLinear(TensorAdapterLayer):
    """y = x W + alpha x G1 G2[l] G3[m] G4, the cores shared with the other layers of this size."""

    method = "meta_tt"
    adapter_layer_names = ("meta_tt_train",)
    other_param_names = (*TensorAdapterLayer.other_param_names, "meta_tt_cell")

    def __init__(self, base_layer: nn.Module, **quantization: Any) -> None:
        super().__init__(base_layer, **quantization)
        self.meta_tt_train = nn.ModuleDict()  # in the first layer of a size alone, so that it is saved once
        self.meta_tt_cell: dict[str, Cell] = {}

    def _build(self, adapter_name: str, config: TensorAdapterConfig, generator: np.random.Generator) -> float:  # noqa: ARG002
        self.meta_tt_train._modules.pop(adapter_name, None)  # if the adapter is made anew, another may own the train
        return cast(MetaTTConfig, config).alpha  # the train is made when all layers are there

    def _adapt_output(self, adapter_name: str, x: Tensor, result: Tensor) -> Tensor:
        factors = self.meta_tt_cell[adapter_name].factors(training=self.training)
        x = self._drop(adapter_name, x, factors.q.dtype)
        return skinny_product(x, factors, base=result, scale=self.scaling[adapter_name], cast=True)

    def delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return P (in, k) and Q (k, out) with P Q = alpha G1 G2[l] G3[m] G4, minus its start where that is kept."""
        pt, q, _ = self.meta_tt_cell[adapter_name].factors(training=self.training)
        return pt.t(), q * self.scaling[adapter_name]


class MetaTTModel(TensorAdapterTuner):
    """A model whose layers share MetaTT trains."""

    prefix = "meta_tt_"
    linear_layer_cls = MetaTTLinear
    target_module_mapping = REP_TARGET_MODULES

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put the adapter into all layers, then give those of each size their train."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = cast(MetaTTConfig, self.peft_config[adapter_name])
        found = {n: m for n, m in model.named_modules() if isinstance(m, MetaTTLinear) and adapter_name in m.scaling}
        for rows, cols in {(m.in_features, m.out_features) for m in found.values()}:
            modules = {name: m for name, m in found.items() if (m.in_features, m.out_features) == (rows, cols)}
            places = [_place(name) for name in modules]
            layers, kinds = (list(dict.fromkeys(mode)) for mode in zip(*places, strict=True))
            shape, std = [rows, len(layers), len(kinds), cols], (rows + cols) ** -0.5  # the spread in one layer
            generator = self.start_generator(adapter_name, f"{rows}x{cols}")
            size, owner = (rows * len(layers), len(kinds) * cols), next(iter(modules.values()))
            with init_empty_weights() if kwargs.get("low_cpu_mem_usage") else nullcontext():
                train = owner._tt_linear(*size, config, generator, name="train", shape=shape, std=std)
                start_at_zero(train, train, config.init_weights)
            owner.meta_tt_train[adapter_name] = train
            train.requires_grad_(adapter_name in self.active_adapters and not config.inference_mode)
            for module, (layer, kind) in zip(modules.values(), places, strict=True):
                module.meta_tt_cell[adapter_name] = Cell(train, layers.index(layer), kinds.index(kind), FactorKeeper())


def _place(name: str) -> tuple[str, str]:
    """Return the layer of a module, the first number between dots in its name, and what kind of projection it is.

    >>> _place("model.layers.3.self_attn.q_proj")
    ('3', 'model.layers.*.self_attn.q_proj')
    """
    number = re.search(r"(?<=\.)\d+(?=\.)", name)
    return (number[0], f"{name[: number.start()]}*{name[number.end() :]}") if number else ("0", name)

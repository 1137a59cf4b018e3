"""TT-LoRA: the update of a weight as one tensor train (Anjum et al. 2024, arXiv:2408.01008)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ttlib_peft.config import TensorAdapterConfig, TensorPeftType, number
from ttlib_peft.layer import TensorAdapterLayer, start_at_zero
from ttlib_peft.skinny_product import skinny_product
from ttlib_peft.spectral_init import start_in
from ttlib_peft.targets import REP_TARGET_MODULES
from ttlib_peft.tt_linear import TTLinear
from ttlib_peft.tuner import TensorAdapterTuner


@dataclass
class TtLoraConfig(TensorAdapterConfig):
    """TT-LoRA: W' = W + alpha TT, with TT (in, out) one tensor train (Anjum et al. 2024, section III).

    >>> config = TtLoraConfig(tensor_rank=5, tensor_shape={"768x768": [64, 4, 3, 3, 4, 64]}, target_modules=["query"])
    >>> config.alpha, config.init_weights
    (1.0, 'residual')

    A (768, 768) matrix of this shape has 990 parameters: the sum of r n r' over the cores.  The bond between rows and
    columns bounds the rank of the update, so `tensor_rank` does here what r does for LoRA.

    Args:
        alpha: the update is scaled by it (by alpha itself, not by alpha / r).
        alpha_pattern: other alpha for some modules, as in LoraConfig.

    For the rest see `TensorAdapterConfig`.  Raises ValueError (also as RankError, ShapeError) for impossible values.
    """

    alpha: float = field(default=1.0, metadata={"help": "The update is scaled by alpha."})
    alpha_pattern: dict[str, float] = field(default_factory=dict, metadata={"help": "Other alpha, by module name."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = TensorPeftType.TT_LORA
        self.alpha = number(self.alpha, "alpha")
        self.alpha_pattern = {name: number(alpha, "alpha") for name, alpha in self.alpha_pattern.items()}


class TtLoraLinear(TensorAdapterLayer):
    """y = x W + alpha x TT, with TT (in, out) a tensor train: two skinny products, x U and then (x U) V."""

    method = "tt_lora"
    adapter_layer_names = ("tt_lora_train",)

    def __init__(self, base_layer: nn.Module, **quantization: Any) -> None:
        super().__init__(base_layer, **quantization)
        self.tt_lora_train = nn.ModuleDict()

    def _build(self, adapter_name: str, config: TensorAdapterConfig, generator: np.random.Generator) -> float:
        assert isinstance(config, TtLoraConfig)  # noqa: S101  # for the type checker
        train = self._tt_linear(self.in_features, self.out_features, config, generator, name="train")
        if self._starts_from_weight(config, train):
            start_in(train, self._dense_weight())
        start_at_zero(train, train, config.init_weights)
        if config.init_weights == "paper-mean":
            with torch.no_grad():
                u, v = train.factors()
                # mean of U V without forming it
                train.offset = (u.sum(dim=0) @ v.sum(dim=1)) / (self.in_features * self.out_features)
        self.tt_lora_train[adapter_name] = train
        return config.alpha

    def _adapt_output(self, adapter_name: str, x: Tensor, result: Tensor) -> Tensor:
        train = self._train(adapter_name)
        factors = train.keeper.factors((train,), training=self.training, offset=train.offset)
        x = self._drop(adapter_name, x, factors.q.dtype)
        return skinny_product(x, factors, base=result, scale=self.scaling[adapter_name], cast=True)

    def delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return P (in, k) and Q (k, out) with P Q = alpha TT, minus its start where that is kept."""
        p, q = self._train(adapter_name).factors()
        return p, q * self.scaling[adapter_name]

    def _train(self, adapter_name: str) -> TTLinear:
        return cast(TTLinear, self.tt_lora_train[adapter_name])


class TtLoraModel(TensorAdapterTuner):
    """A model with TT-LoRA adapters."""

    prefix = "tt_lora_"
    linear_layer_cls = TtLoraLinear
    target_module_mapping = REP_TARGET_MODULES

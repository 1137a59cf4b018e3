"""LoRETTA_rep: the update of a weight as a product of two tensor-train matrices (Yang et al. 2024, section 3.3)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ttlib_peft.config import TensorAdapterConfig, TensorPeftType, number, size
from ttlib_peft.layer import TensorAdapterLayer, start_at_zero
from ttlib_peft.skinny_product import skinny_product
from ttlib_peft.spectral_init import leading_directions, start_in
from ttlib_peft.targets import REP_TARGET_MODULES
from ttlib_peft.tt_linear import TTLinear, product_factors
from ttlib_peft.tuner import TensorAdapterTuner


@dataclass
class LorettaRepConfig(TensorAdapterConfig):
    """LoRETTA_rep: W' = W + alpha/r * A B with A (in, r) and B (r, out) tensor trains (Yang et al. 2024, 3.3).

    >>> config = LorettaRepConfig(r=8, tensor_rank=5, alpha=16, target_modules=["query", "value"])
    >>> config.init_weights
    'residual'

    Args:
        r: the inner size of A B, as in LoRA.
        alpha: the update is scaled by alpha / r.
        rank_pattern, alpha_pattern: other values for some modules, as in LoraConfig.

    For the rest see `TensorAdapterConfig`.  Raises ValueError (also as RankError, ShapeError) for impossible values.
    """

    r: int = field(default=8, metadata={"help": "Inner size of the update A B."})
    alpha: float = field(default=16, metadata={"help": "The update is scaled by alpha / r."})
    rank_pattern: dict[str, int] = field(default_factory=dict, metadata={"help": "Other r, by module name."})
    alpha_pattern: dict[str, float] = field(default_factory=dict, metadata={"help": "Other alpha, by module name."})

    PATTERNS: ClassVar[dict[str, str]] = {"rank": "r"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = TensorPeftType.LORETTA_REP
        self.r = size(self.r, "r")
        number(self.alpha, "alpha")
        self.rank_pattern = {name: size(r, "r") for name, r in self.rank_pattern.items()}
        self.alpha_pattern = {name: number(alpha, "alpha") for name, alpha in self.alpha_pattern.items()}


class LorettaRepLinear(TensorAdapterLayer):
    """y = x W + s x A B, with A (in, r) and B (r, out) tensor trains and s = alpha / r."""

    method = "loretta_rep"
    adapter_layer_names = ("loretta_rep_A", "loretta_rep_B")

    def __init__(self, base_layer: nn.Module, **quantization: Any) -> None:
        super().__init__(base_layer, **quantization)
        self.loretta_rep_A = nn.ModuleDict()
        self.loretta_rep_B = nn.ModuleDict()

    def _build(self, adapter_name: str, config: TensorAdapterConfig, generator: np.random.Generator) -> float:
        assert isinstance(config, LorettaRepConfig)  # noqa: S101  # for the type checker
        a = self._tt_linear(self.in_features, config.r, config, generator, name="A")
        b = self._tt_linear(config.r, self.out_features, config, generator, name="B")
        if self._starts_from_weight(config, a):
            left, right = leading_directions(self._dense_weight(), config.r)
            start_in(a, left)
            start_in(b, right)
        start_at_zero(a, b, config.init_weights)
        if config.init_weights == "paper-mean":
            with torch.no_grad():
                p, q = product_factors(a, b)
                # mean of P Q without forming it
                b.offset = (p.sum(dim=0) @ q.sum(dim=1)) / (self.in_features * self.out_features)
        self.loretta_rep_A[adapter_name] = a
        self.loretta_rep_B[adapter_name] = b
        return config.alpha / config.r

    def _adapt_output(self, adapter_name: str, x: Tensor, result: Tensor) -> Tensor:
        a, b = self._trains(adapter_name)
        factors = a.keeper.factors((a, b), training=self.training, offset=b.offset)
        x = self._drop(adapter_name, x, factors.q.dtype)
        return skinny_product(x, factors, base=result, scale=self.scaling[adapter_name], cast=True)

    def delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return P (in, k) and Q (k, out) with P Q = s (A B), minus its start where that is kept."""
        p, q = product_factors(*self._trains(adapter_name))
        return p, q * self.scaling[adapter_name]

    def _trains(self, adapter_name: str) -> tuple[TTLinear, TTLinear]:
        a, b = self.loretta_rep_A[adapter_name], self.loretta_rep_B[adapter_name]
        return cast(TTLinear, a), cast(TTLinear, b)


class LorettaRepEmbedding(LorettaRepLinear):
    """y = W[i] + s A[i] B: the rows of A, (tokens, r), are looked up, not multiplied."""

    def _adapt_output(self, adapter_name: str, x: Tensor, result: Tensor) -> Tensor:
        a, b = self._trains(adapter_name)
        pt, q, _ = a.keeper.factors((a, b), training=self.training, offset=b.offset)
        frozen = cast(nn.Embedding, self.get_base_layer())
        rows = embedding(x, pt.t(), padding_idx=frozen.padding_idx)
        dropped = self._drop(adapter_name, rows, rows.dtype)
        y = dropped @ (q * self.scaling[adapter_name])
        embed_scale = self._get_embed_scale()  # Gemma's embeddings are scaled after the lookup
        return result + (y if embed_scale is None else y * embed_scale.to(y)).to(result.dtype)


class LorettaRepModel(TensorAdapterTuner):
    """A model with LoRETTA_rep adapters."""

    prefix = "loretta_rep_"
    linear_layer_cls = LorettaRepLinear
    embedding_layer_cls = LorettaRepEmbedding
    target_module_mapping = REP_TARGET_MODULES

    def _post_injection_hook(self, model: nn.Module, config: TensorAdapterConfig, adapter_name: str) -> None:
        super()._post_injection_hook(model, config, adapter_name)
        layers = [m for m in model.modules() if isinstance(m, LorettaRepLinear) and adapter_name in m.loretta_rep_A]
        trains = [layer._trains(adapter_name) for layer in layers]
        caps = [(min(a.matrix_rank, b.matrix_rank), min(a.nominal_rank, b.nominal_rank)) for a, b in trains]
        capped = [(rank, r) for rank, r in caps if rank < r]
        if capped and not config.inference_mode:
            rank, r = capped[0]
            _say_once(
                f"r is {r}, but tensor_rank gives updates of rank {rank}, which a bond between rows and columns "
                f"caps, in {len(capped)} of {len(layers)} modules: tensor_rank={r} has the rank, r={rank} costs less"
            )


@cache
def _say_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)

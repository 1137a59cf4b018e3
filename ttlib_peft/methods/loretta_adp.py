"""LoRETTA_adp: bottleneck adapters whose two layers are tensor trains (Yang et al. 2024, section 3.2)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from ttlib_peft.assembly import Factors
from ttlib_peft.bottleneck import Bottleneck, bottleneck
from ttlib_peft.config import TensorAdapterConfig, TensorPeftType, number, one_of, size
from ttlib_peft.layer import TensorAdapterLayer, activation, start_at_zero
from ttlib_peft.spectral_init import leading_directions, start_in
from ttlib_peft.targets import ADP_INPUT_TARGET_MODULES, ADP_TARGET_MODULES, is_called
from ttlib_peft.tt_linear import TTLinear
from ttlib_peft.tuner import TensorAdapterTuner

NonLinearity = Literal["relu", "gelu", "silu", "tanh", "identity"]
Placement = Literal["auto", "output", "input"]
Side = Literal["output", "input"]


@dataclass
class LorettaAdpConfig(TensorAdapterConfig):
    """LoRETTA_adp: h' = h + scaling * up(act(down(h))) with tensor-train layers (Yang et al. 2024, 3.2).

    >>> LorettaAdpConfig(bottleneck=64, tensor_rank=5, non_linearity="relu").placement
    'auto'

    Args:
        bottleneck: size between the two layers.
        non_linearity: "relu", "gelu", "silu", "tanh" or "identity".
        scaling: factor on the adapter's output.
        placement: "output" adapts what the target module returns, "input" what it is given; "auto" is "output".  A
            mapping says it for each module by the end of its name, {"gate_proj": "input", "down_proj": "output"}, and
            its names are the targets where `target_modules` is None.

    For the rest see `TensorAdapterConfig`.  Raises ValueError (also as RankError, ShapeError) for impossible values.
    """

    bottleneck: int = field(default=64, metadata={"help": "Size between the two tensor-train layers."})
    non_linearity: NonLinearity = field(default="relu", metadata={"help": "Activation in between."})
    scaling: float = field(default=1.0, metadata={"help": "Factor on the adapter's output."})
    placement: Placement | dict[str, Side] = field(
        default="auto", metadata={"help": "Before or after the target module."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = TensorPeftType.LORETTA_ADP
        self.bottleneck = size(self.bottleneck, "bottleneck")
        one_of(self.non_linearity, NonLinearity, "non_linearity")
        if isinstance(self.placement, Mapping):
            for name, side in self.placement.items():
                one_of(side, Side, f"placement of {name!r}")
        else:
            one_of(self.placement, Placement, "placement")
        number(self.scaling, "scaling")

    def for_module(self, name: str) -> Self:
        """Return the configuration of one module, with the side on which it is adapted."""
        own = copy.copy(super().for_module(name))
        if isinstance(self.placement, Mapping):
            own.placement = next((side for suffix, side in self.placement.items() if is_called(name, suffix)), "output")
        return own


class LorettaAdpLinear(TensorAdapterLayer):
    """h' = h + s (f(h) - f0(h)) with f(h) = up(act(down(h))), up and down tensor trains with dense biases.

    f0 is the adapter as it started where the start is kept ("residual"), else absent.
    """

    method = "loretta_adp"
    adapter_layer_names = ("loretta_adp_down", "loretta_adp_up")
    other_param_names = (*TensorAdapterLayer.other_param_names, "loretta_adp_act", "loretta_adp_placement")

    def __init__(self, base_layer: nn.Module, **quantization: Any) -> None:
        super().__init__(base_layer, **quantization)
        self.loretta_adp_down = nn.ModuleDict()
        self.loretta_adp_up = nn.ModuleDict()
        self.loretta_adp_act = nn.ModuleDict()
        self.loretta_adp_placement: dict[str, str] = {}

    def _build(self, adapter_name: str, config: TensorAdapterConfig, generator: np.random.Generator) -> float:
        assert isinstance(config, LorettaAdpConfig)  # noqa: S101  # for the type checker
        placement = "input" if config.placement == "input" else "output"
        width = self.in_features if placement == "input" else self.out_features
        down = self._tt_linear(width, config.bottleneck, config, generator, name="down", bias=True)
        up = self._tt_linear(config.bottleneck, width, config, generator, name="up", bias=True)
        if self._starts_from_weight(config, down):
            # the directions in which what the layer is given, or gives, weighs most
            left, right = leading_directions(self._dense_weight(), config.bottleneck)
            read = left if placement == "input" else right.T
            start_in(down, read)
            start_in(up, read.T)
        start_at_zero(down, up, config.init_weights)
        if config.init_weights == "paper-mean":
            with torch.no_grad():
                down.offset, up.offset = down.to_dense().mean(), up.to_dense().mean()
        self.loretta_adp_down[adapter_name] = down
        self.loretta_adp_up[adapter_name] = up
        self.loretta_adp_act[adapter_name] = activation(config.non_linearity)
        self.loretta_adp_placement[adapter_name] = placement
        return config.scaling

    def role(self, adapter_name: str) -> str:
        """Say on which side of the layer the adapter stands."""
        return {"input": "before", "output": "after"}[self.loretta_adp_placement[adapter_name]]

    def _adapt_input(self, adapter_name: str, x: Tensor) -> Tensor:
        return self._adapt(adapter_name, x) if self.loretta_adp_placement[adapter_name] == "input" else x

    def _adapt_output(self, adapter_name: str, x: Tensor, result: Tensor) -> Tensor:  # noqa: ARG002
        return self._adapt(adapter_name, result) if self.loretta_adp_placement[adapter_name] == "output" else result

    def _adapt(self, adapter_name: str, h: Tensor) -> Tensor:
        down = cast(TTLinear, self.loretta_adp_down[adapter_name])
        up = cast(TTLinear, self.loretta_adp_up[adapter_name])
        biases = cast(Tensor, down.bias), cast(Tensor, up.bias)
        layers = Bottleneck(self._factors(down), biases[0], self._factors(up), biases[1])
        x = self._drop(adapter_name, h, down.flat.dtype)
        activation = self.loretta_adp_act[adapter_name]
        return bottleneck(x, h, layers, activation, scale=self.scaling[adapter_name])

    def _factors(self, train: TTLinear) -> Factors:
        return train.keeper.factors((train,), training=self.training, offset=train.offset)


class LorettaAdpModel(TensorAdapterTuner):
    """A model with LoRETTA_adp adapters."""

    prefix = "loretta_adp_"
    linear_layer_cls = LorettaAdpLinear
    target_module_mapping = ADP_TARGET_MODULES

    def _prepare_adapter_config(
        self, peft_config: TensorAdapterConfig, model_config: dict[str, Any]
    ) -> TensorAdapterConfig:
        assert isinstance(peft_config, LorettaAdpConfig)  # noqa: S101  # for the type checker
        if peft_config.target_modules is None and isinstance(peft_config.placement, Mapping):
            peft_config.target_modules = set(peft_config.placement)  # type: ignore[assignment]  # as PEFT wants it
        elif peft_config.target_modules is None and peft_config.placement == "input":
            inputs = ADP_INPUT_TARGET_MODULES.get(model_config.get("model_type", ""))
            peft_config.target_modules = None if inputs is None else set(inputs)  # type: ignore[assignment]
        return super()._prepare_adapter_config(peft_config, model_config)

    def _check_merge_allowed(self) -> NoReturn:
        # Refused for the whole model, before any layer is touched; unload() does not come here.
        msg = (
            "LoRETTA_adp cannot be merged: an activation stands between its two layers, so it is not an update of "
            "the weight.  Keep the adapter, drop it with unload(), or train LoRETTA_rep, which merges exactly"
        )
        raise NotImplementedError(msg)

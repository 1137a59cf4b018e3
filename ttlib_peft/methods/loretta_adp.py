"""LoRETTA_adp: bottleneck adapters whose two layers are tensor trains (Yang et al. 2024, section 3.2)."""

from __future__ import annotations

from typing import NoReturn, cast

import numpy as np
import torch
from torch import Tensor, nn

from ttlib_peft.assembly import Factors
from ttlib_peft.bottleneck import Bottleneck, bottleneck
from ttlib_peft.config import LorettaAdpConfig, LorettaConfig
from ttlib_peft.layer import LorettaLayer, activation, start_at_zero
from ttlib_peft.targets import ADP_TARGET_MODULES
from ttlib_peft.tt_linear import TTLinear
from ttlib_peft.tuner import LorettaTuner


class LorettaAdpLinear(LorettaLayer):
    """h' = h + s (f(h) - f0(h)) with f(h) = up(act(down(h))), up and down tensor trains with dense biases.

    f0 is the adapter as it started where the start is kept ("residual"), else absent.
    """

    method = "loretta_adp"
    adapter_layer_names = ("loretta_adp_down", "loretta_adp_up")
    other_param_names = (*LorettaLayer.other_param_names, "loretta_adp_act", "loretta_adp_placement")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.loretta_adp_down = nn.ModuleDict()
        self.loretta_adp_up = nn.ModuleDict()
        self.loretta_adp_act = nn.ModuleDict()
        self.loretta_adp_placement: dict[str, str] = {}

    def _build(self, adapter_name: str, config: LorettaConfig, generator: np.random.Generator) -> float:
        assert isinstance(config, LorettaAdpConfig)  # noqa: S101  # for the type checker
        placement = "input" if config.placement == "input" else "output"
        width = self.in_features if placement == "input" else self.out_features
        down = self._tt_linear(width, config.bottleneck, config, generator, bias=True)
        up = self._tt_linear(config.bottleneck, width, config, generator, bias=True)
        start_at_zero(down, up, config.init_weights)
        if config.init_weights == "paper-mean":
            with torch.no_grad():
                down.offset, up.offset = down.to_dense().mean(), up.to_dense().mean()
        self.loretta_adp_down[adapter_name] = down
        self.loretta_adp_up[adapter_name] = up
        self.loretta_adp_act[adapter_name] = activation(config.non_linearity)
        self.loretta_adp_placement[adapter_name] = placement
        return config.scaling

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
        return bottleneck(x, h, layers, activation, scale=self.loretta_scaling[adapter_name])

    def _factors(self, train: TTLinear) -> Factors:
        return train.keeper.factors((train,), training=self.training, offset=train.offset)


class LorettaAdpModel(LorettaTuner):
    """A model with LoRETTA_adp adapters."""

    prefix = "loretta_adp_"
    tuner_layer_cls = LorettaAdpLinear
    target_module_mapping = ADP_TARGET_MODULES

    def _check_merge_allowed(self) -> NoReturn:
        # Refused for the whole model, before any layer is touched; unload() does not come here.
        msg = (
            "LoRETTA_adp cannot be merged: an activation stands between its two layers, so it is not an update of "
            "the weight.  Keep the adapter, drop it with unload(), or train LoRETTA_rep, which merges exactly"
        )
        raise NotImplementedError(msg)

"""LoRETTA_adp: bottleneck adapters whose two layers are tensor trains (Yang et al. 2024, section 3.2)."""

from __future__ import annotations

from typing import NoReturn, cast

import numpy as np
import torch
from torch import Tensor, nn

from ttlib.cores.contraction import factor_pair
from ttlib.cores.displacement import Displaced
from ttlib_peft.config import LorettaAdpConfig, LorettaConfig
from ttlib_peft.layer import LorettaLayer, activation, start_at_zero
from ttlib_peft.targets import ADP_TARGET_MODULES
from ttlib_peft.tt_linear import TTLinear, difference
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
        act = self.loretta_adp_act[adapter_name]
        x = self.loretta_dropout[adapter_name](self._cast_input_dtype(h, down.flat.dtype))
        change = _residual(x, down, up, act) if down.initial is not None else up(act(down(x)))
        return h + (change * self.loretta_scaling[adapter_name]).to(h.dtype)


def _residual(x: Tensor, down: TTLinear, up: TTLinear, act: nn.Module) -> Tensor:
    """Return up(act(down(x))) minus the same with the starts, as a sum of terms that each hold a difference.

    With z = z0 + dz the input of the activation, a = act(z) and a0 = act(z0):
        a Up - a0 Up0 = a (Up - Up0) + (a - a0) Up0.
    At the start dz is exactly zero, so a = a0 and Up = Up0 exactly; every core has a gradient all the same.
    """
    z0, dz = _split_product(x, down)
    a = act(down.add_bias(z0 + dz))
    a0 = act(z0)  # the biases start at zero
    u, v = factor_pair(up.operands(), up.split)
    p, q = difference(u, v)
    return up.add_bias((a @ p) @ q + ((a - a0) @ u.base) @ v.base)


def _split_product(x: Tensor, layer: TTLinear) -> tuple[Tensor, Tensor]:
    """Return x W0 and x (W - W0)."""
    u, v = factor_pair(layer.operands(), layer.split)
    assert isinstance(u, Displaced)  # noqa: S101  # for the type checker
    p, q = difference(u, v)  # P = [U - U0 | U0]
    xp = x @ p
    return xp[..., p.shape[1] // 2 :] @ v.base, xp @ q


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

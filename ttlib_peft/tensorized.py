"""A pooler, or the first layer of a classifier, trained as a tensor train (Yang et al. 2024, section 3.2)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from ttlib_peft.config import TensorAdapterConfig
from ttlib_peft.layer import TensorAdapterLayer, start_at_zero
from ttlib_peft.spectral_init import start_in
from ttlib_peft.targets import is_called
from ttlib_peft.tt_linear import TTLinear


class TensorizedLinear(TensorAdapterLayer):
    """y = x TT + b in place of the frozen layer, or beside it: y = x W + c + x (TT - TT0) + b.

    With a start that changes the model's output ("gaussian", "paper-mean") the tensor train replaces the layer, as in
    the paper.  With one that does not ("residual", "zero", "spectral") the layer stays and the train is added.
    Either way switching the adapter off or unloading it gives the dense layer back.
    """

    method = "tensorized"
    other_param_names = (*TensorAdapterLayer.other_param_names, "replaces")

    def __init__(self, base_layer: nn.Module, *, prefix: str, **quantization: Any) -> None:
        super().__init__(base_layer, **quantization)
        self.attribute = f"{prefix}tensorized"  # PEFT tells a method's parameters by the prefix
        self.adapter_layer_names = (self.attribute,)
        setattr(self, self.attribute, nn.ModuleDict())
        self.replaces: dict[str, bool] = {}
        self._unmerged: list[nn.Module] = []  # the frozen layer while a merged copy stands in its place

    def _build(self, adapter_name: str, config: TensorAdapterConfig, generator: np.random.Generator) -> float:
        has_bias = self.get_base_layer().bias is not None
        train = self._tt_linear(
            self.in_features, self.out_features, config, generator, name="tensorized", bias=has_bias
        )
        if self._starts_from_weight(config, train):
            start_in(train, self._dense_weight())
        start_at_zero(train, train, config.init_weights)
        if config.init_weights == "paper-mean":
            train.offset = train.to_dense().mean().detach()
        getattr(self, self.attribute)[adapter_name] = train
        self.replaces[adapter_name] = config.init_weights in ("gaussian", "paper-mean")
        return 1.0

    def role(self, adapter_name: str) -> str:
        """Say whether the tensor train is there instead of the layer or beside it."""
        return "instead" if self.replaces[adapter_name] else "beside"

    def train_of(self, adapter_name: str) -> TTLinear:
        """Return the tensor train of one adapter."""
        return cast(TTLinear, getattr(self, self.attribute)[adapter_name])

    def _adapt_output(self, adapter_name: str, x: Tensor, result: Tensor) -> Tensor:
        train = self.train_of(adapter_name)
        y = train(self._drop(adapter_name, self._cast_input_dtype(x, train.flat.dtype), train.flat.dtype))
        y = (y * self.scaling[adapter_name]).to(result.dtype)
        return y if self.replaces[adapter_name] else result + y

    @torch.no_grad()
    def merged_layer(self, adapter_names: Iterable[str]) -> nn.Module:
        """Return a dense layer that does what this one does with these adapters; the frozen layer stays as it is.

        Raises ValueError when its weight would not be finite.
        """
        weight, bias = self.get_base_weight(), cast("Tensor | None", self.get_base_layer().bias)
        for name in adapter_names:
            train, scale = self.train_of(name), self.scaling[name]
            dense = scale * train.to_dense().T.to(weight)
            weight = dense if self.replaces[name] else weight + dense
            if bias is not None:
                moved = scale * cast(Tensor, train.bias).to(bias)
                bias = moved if self.replaces[name] else bias + moved
            if not all(torch.isfinite(part).all() for part in (weight, bias) if part is not None):
                msg = (
                    f"NaNs detected in the merged weights. The adapter {name} seems to be broken: its tensorised layer "
                    "would hold NaN or infinity; the weight was left as it was"
                )
                raise ValueError(msg)
        merged = copy.deepcopy(self.get_base_layer())
        merged.weight.data = weight
        if bias is not None:
            merged.bias.data = bias
        return merged

    def check_merge(self, adapter_names: list[str] | None = None) -> None:
        """Raise what `merge` would raise, without changing anything."""
        wanted = self.active_adapters if adapter_names is None else adapter_names
        self.merged_layer(name for name in wanted if name in self.scaling)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:  # noqa: ARG002
        """Put a dense layer in the place of the frozen one, which is kept for `unmerge`."""
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.scaling]
        if names:
            merged = self.merged_layer(names)
            if not self._unmerged:
                self._unmerged.append(self.base_layer)
            self.base_layer = merged
            self.merged_adapters.extend(names)

    def unmerge(self) -> None:
        """Put the frozen layer back."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        merged, self.base_layer = self.base_layer, self._unmerged.pop()
        self.base_layer.to(cast(Tensor, merged.weight).device)
        self.merged_adapters.clear()


def is_tensorized(config: TensorAdapterConfig, name: str) -> bool:
    """Tell whether *config* asks for this module to be trained as a tensor train."""
    return any(is_called(name, suffix) for suffix in config.tensorize_modules or ())


def without_tensorized(model: nn.Module, config: TensorAdapterConfig) -> list[str] | None:
    """Return `modules_to_save` with modules that hold a tensorised one replaced by the rest of what they hold.

    A classifier whose first layer is tensorised is saved as that tensor train and its other layers, not whole.
    """
    names = [
        name for name, _ in model.named_modules() if not {"original_module", "modules_to_save"} & {*name.split(".")}
    ]
    tensorized = [name for name in names if is_tensorized(config, name)]
    if not tensorized:
        return config.modules_to_save
    kept: dict[str, None] = {}
    for suffix in config.modules_to_save or ():
        held = [name for name in names if name.endswith(suffix)]  # as PEFT matches them
        if not any(_holds(name, tensorized) for name in held):
            kept[suffix] = None
            continue
        for name in held:
            kept.update(dict.fromkeys(_rest(name, model.get_submodule(name), tensorized)))
    return list(kept)


def _holds(name: str, tensorized: list[str]) -> bool:
    return any(f"{inner}.".startswith(f"{name}.") for inner in tensorized)


def _rest(name: str, module: nn.Module, tensorized: list[str]) -> list[str]:
    """The largest modules in *module* that have parameters and nothing tensorised."""
    if name in tensorized:
        return []
    if not _holds(name, tensorized):
        return [name] if next(module.parameters(), None) is not None else []
    return [rest for child, inner in module.named_children() for rest in _rest(f"{name}.{child}", inner, tensorized)]

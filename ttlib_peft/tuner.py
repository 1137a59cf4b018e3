"""The tuner of both methods: what PEFT asks of a model that puts adapters into a model."""

from __future__ import annotations

import zlib
from functools import cached_property
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import ModulesToSaveWrapper
from torch import nn

from ttlib_peft.config import TensorAdapterConfig
from ttlib_peft.grouping import FactorGroup
from ttlib_peft.layer import TensorAdapterLayer
from ttlib_peft.tt_linear import TTLinear


class TensorAdapterTuner(BaseTuner):
    """Inject adapters into a model; a method only names its prefix, its layer and its default targets."""

    prefix: str
    tuner_layer_cls: type[TensorAdapterLayer]
    target_module_mapping: dict[str, Any]

    def _prepare_adapter_config(
        self, peft_config: TensorAdapterConfig, model_config: dict[str, Any]
    ) -> TensorAdapterConfig:
        peft_config = super()._prepare_adapter_config(peft_config, model_config)
        if peft_config.seed is None:
            peft_config.seed = int(torch.randint(2**31, ()))
        return peft_config

    def _prepare_model(self, peft_config: TensorAdapterConfig, model: nn.Module) -> None:
        # PEFT trains, saves, loads, switches and restores modules_to_save; norms need nothing else.
        if peft_config.train_norms:
            named = peft_config.modules_to_save or []
            peft_config.modules_to_save = [*named, *(n for n in norm_names(model) if n not in named)]

    def _create_and_replace(  # type: ignore[override]  # the config is always ours
        self,
        peft_config: TensorAdapterConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        # Seeded by the module's name: the start of a layer depends on nothing around it.
        entropy = np.random.SeedSequence(peft_config.seed, spawn_key=(zlib.crc32(current_key.encode()),))
        generator = np.random.default_rng(entropy)
        inference_mode = bool(peft_config.inference_mode)
        own = peft_config.for_module(current_key)
        if isinstance(target, self.tuner_layer_cls):
            layer = target
            layer.update_layer(adapter_name, own, generator=generator, inference_mode=inference_mode)
        else:
            layer = self.tuner_layer_cls(target)
            layer._active_adapter = adapter_name
            layer.update_layer(adapter_name, own, generator=generator, inference_mode=inference_mode)
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)  # an additional adapter starts inactive
            self._replace_module(parent, target_name, layer, target)
        group = self._group if peft_config.group_factors else None
        for train in tt_modules(layer, adapter_name):
            train.keeper.group = group
        _record_shapes(peft_config, layer, adapter_name)

    @cached_property
    def _group(self) -> FactorGroup:
        """One for the model, made before the first layer is."""
        return FactorGroup()

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        # PEFT casts parameters only; a start kept in less precision than the cores would not load losslessly.
        for module in tt_modules(self.model, adapter_name):
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(module.flat.dtype))


def tt_modules(model: nn.Module, adapter_name: str) -> list[TTLinear]:
    """Return the tensor-train matrices of one adapter."""
    return [
        module
        for layer in model.modules()
        if isinstance(layer, TensorAdapterLayer)
        for name in layer.adapter_layer_names
        for key, module in getattr(layer, name).items()
        if key == adapter_name and isinstance(module, TTLinear)
    ]


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a LayerNorm, RMSNorm or a model's own kind of these."""
    named = type(module).__name__.lower()
    return isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or (
        named.endswith(("layernorm", "rmsnorm")) and getattr(module, "weight", None) is not None
    )


def norm_names(model: nn.Module) -> list[str]:
    """Return the shortest names that, as suffixes, stand for all normalisation layers and nothing else."""
    modules = {
        name: module.original_module if isinstance(module, ModulesToSaveWrapper) else module
        for name, module in model.named_modules()
        if not {"original_module", "modules_to_save"} & set(name.split("."))
    }
    norms = [name for name, module in modules.items() if is_norm(module)]
    others = [name for name in modules if name not in set(norms)]
    suffixes = sorted({name.rpartition(".")[2] for name in norms})
    return [
        name
        for suffix in suffixes
        for name in (
            # PEFT matches by endswith; a suffix that would also hit another module is spelled out instead
            [suffix]
            if not any(other.endswith(suffix) for other in others)
            else [norm for norm in norms if norm.rpartition(".")[2] == suffix]
        )
    ]


def _record_shapes(config: TensorAdapterConfig, layer: TensorAdapterLayer, adapter_name: str) -> None:
    """Write the modes that were chosen into the config, by matrix size, so that loading never searches again."""
    if isinstance(config.tensor_shape, list):
        return  # one shape for all matrices: nothing was chosen, and the next matrix must fit it too
    shapes = config.tensor_shape or {}
    for module in tt_modules(layer, adapter_name):
        shapes[f"{module.in_features}x{module.out_features}"] = list(module.tensor_shape)
    config.tensor_shape = shapes

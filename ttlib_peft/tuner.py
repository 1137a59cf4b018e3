"""The tuner of both methods: what PEFT asks of a model that puts adapters into a model."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer, onload_layer
from peft.utils import ModulesToSaveWrapper
from peft.utils.other import get_pattern_key
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from ttlib_peft.compat import BaseTuner, get_quantization_kwargs, resolve_quantization_backend
from ttlib_peft.config import TensorAdapterConfig
from ttlib_peft.grouping import FactorGroup
from ttlib_peft.layer import TensorAdapterLayer
from ttlib_peft.loading import CheckedLoading
from ttlib_peft.mixed_batch import one_adapter_a_sample
from ttlib_peft.targets import is_called
from ttlib_peft.tensorized import TensorizedLinear, is_tensorized, without_tensorized
from ttlib_peft.tt_linear import TTLinear


class TensorAdapterTuner(CheckedLoading):
    """Inject adapters into a model; a method only names its prefix, its layer and its default targets."""

    prefix: str
    tuner_layer_cls = TensorAdapterLayer
    target_module_mapping: dict[str, Any]
    # What stands around a linear layer, and around an embedding where the method can adapt one.
    linear_layer_cls: type[TensorAdapterLayer]
    embedding_layer_cls: type[TensorAdapterLayer] | None = None

    def _prepare_adapter_config(
        self, peft_config: TensorAdapterConfig, model_config: dict[str, Any]
    ) -> TensorAdapterConfig:
        peft_config = super()._prepare_adapter_config(peft_config, model_config)
        if peft_config.seed is None:
            peft_config.seed = int(torch.randint(2**31, (), device="cpu"))
        return peft_config

    def _prepare_model(self, peft_config: TensorAdapterConfig, model: nn.Module) -> None:
        # PEFT trains, saves, loads, switches and restores modules_to_save; norms need nothing else.
        if peft_config.train_norms:
            named = peft_config.modules_to_save or []
            peft_config.modules_to_save = [*named, *(n for n in norm_names(model) if n not in named)]
        names = [name for name, _ in model.named_modules()]
        for suffix in peft_config.tensorize_modules or ():
            if not any(is_called(name, suffix) for name in names):
                msg = f"tensorize_modules names {suffix!r}, which is no module of this {type(model).__name__}"
                raise ValueError(msg)
        peft_config.modules_to_save = without_tensorized(model, peft_config)

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
        layer = self._layer_for(target, current_key, peft_config)
        if layer is not target:
            layer._active_adapter = adapter_name
        layer.update_layer(
            adapter_name,
            peft_config.for_module(current_key),
            generator=self.start_generator(adapter_name, current_key),
            inference_mode=bool(peft_config.inference_mode),
        )
        if layer is not target:
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)  # an additional adapter starts inactive
            self._replace_module(parent, target_name, layer, target)
        group = self._group if peft_config.group_factors else None
        for train in tt_modules(layer, adapter_name):
            train.keeper.group = group
        _record_shapes(peft_config, layer, adapter_name)

    def start_generator(self, adapter_name: str, name: str) -> np.random.Generator:
        """Return the random numbers of one start: they depend on the seed and the module's name, on nothing around it.

        Adapters made from one configuration object, in which a drawn seed is recorded, start differently, as LoRA's do.
        """
        config = self.peft_config[adapter_name]
        place = [other for other, own in self.peft_config.items() if own is config].index(adapter_name)
        entropy = np.random.SeedSequence([config.seed, place], spawn_key=(zlib.crc32(name.encode()),))
        return np.random.default_rng(entropy)

    def _post_injection_hook(self, model: nn.Module, config: TensorAdapterConfig, adapter_name: str) -> None:
        super()._post_injection_hook(model, config, adapter_name)
        # PEFT itself says this of rank_pattern and alpha_pattern
        layers = [name for name, module in model.named_modules() if isinstance(module, TensorAdapterLayer)]
        unused = {*config.tensor_rank_pattern} - {
            get_pattern_key([*config.tensor_rank_pattern], name) for name in layers
        }
        if unused:
            warnings.warn(
                f"The following tensor_rank_pattern keys did not match any targeted module and were ignored: {unused}.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _layer_for(self, target: nn.Module, name: str, config: TensorAdapterConfig) -> TensorAdapterLayer:
        """Return the layer to put an adapter into: the one that is there, or a new one around *target*."""
        tensorized = is_tensorized(config, name)
        if not isinstance(target, TensorAdapterLayer):
            return self._new_layer(target, name, tensorized=tensorized)
        if isinstance(target, TensorizedLinear) != tensorized:
            msg = (
                f"{name} is in the tensorize_modules of one adapter and in the target_modules of another, which one "
                "layer cannot be; name it in the same setting for all adapters"
            )
            raise ValueError(msg)
        return target

    def _new_layer(self, target: nn.Module, name: str, *, tensorized: bool) -> TensorAdapterLayer:
        frozen = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        backend = resolve_quantization_backend(frozen)
        if tensorized and isinstance(frozen, nn.Linear):
            return TensorizedLinear(target, prefix=self.prefix, **get_quantization_kwargs(self))
        if isinstance(frozen, nn.Embedding) and self.embedding_layer_cls is not None and not tensorized:
            return self.embedding_layer_cls(target)
        supported = isinstance(frozen, (nn.Linear, Conv1D)) or (backend is not None and backend.layer_type == "linear")
        if supported and not tensorized and not isinstance(frozen, NonDynamicallyQuantizableLinear):
            return self.linear_layer_cls(target, **get_quantization_kwargs(self))
        raise ValueError(self._unsupported(frozen, name, tensorized=tensorized))

    def _unsupported(self, frozen: nn.Module, name: str, *, tensorized: bool) -> str:
        if isinstance(frozen, NonDynamicallyQuantizableLinear):
            return (
                f"Target module {name} is not supported: torch.nn.MultiheadAttention reads its weight and never calls "
                "it, so an adapter there would do nothing; leave it out with exclude_modules"
            )
        supported = "torch.nn.Linear" if tensorized else "torch.nn.Linear (also quantised), transformers' Conv1D"
        if self.embedding_layer_cls is not None and not tensorized:
            supported += ", torch.nn.Embedding"
        return f"Target module {name} is not supported: it is a {type(frozen).__name__}, not one of {supported}"

    @staticmethod
    def _check_target_module_exists(peft_config: TensorAdapterConfig, key: str) -> Any:
        # before PEFT's rules, which leave out everything inside modules_to_save
        return is_tensorized(peft_config, key) or BaseTuner._check_target_module_exists(peft_config, key)

    @contextmanager
    def _enable_peft_forward_hooks(self, *_: Any, **kwargs: Any) -> Iterator[None]:
        adapter_names = kwargs.get("adapter_names")
        if adapter_names is None:
            yield
            return
        beams = kwargs.get("num_beams")
        with one_adapter_a_sample(self.model, adapter_names, beams=beams if isinstance(beams, int) else 1):
            yield

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge into every layer, or into none: all are checked before the first weight is touched."""
        self._check_merge_allowed()
        self._check_every_merge(adapter_names)
        super().merge_adapter(adapter_names, safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        if merge:
            self._check_merge_allowed()
            self._check_every_merge(adapter_names)
        return super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)

    def _check_every_merge(self, adapter_names: list[str] | None) -> None:
        for module in self.model.modules():
            if isinstance(module, TensorAdapterLayer):
                with onload_layer(module):
                    module.check_merge(adapter_names)

    @classmethod
    def _get_adapter_state_dict(cls, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        selected = super()._get_adapter_state_dict(*args, **kwargs)
        sharded = next((name for name, tensor in selected.items() if hasattr(tensor, "full_tensor")), None)
        if sharded is not None:
            msg = (
                f"{sharded} is sharded, and PEFT writes whole tensors only: call "
                "ttlib_peft.distributed.save_adapter(model, folder) on every rank"
            )
            raise RuntimeError(msg)
        return selected

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

"""The tuner layer of both methods: one implementation of forward, merge, unmerge, scale and dtype handling."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import _get_in_out_features, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn.functional import dropout
from transformers.pytorch_utils import Conv1D

from ttlib_peft.compat import BaseTunerLayer, quantization_extra_repr, resolve_quantization_backend
from ttlib_peft.config import InitWeights, TensorAdapterConfig
from ttlib_peft.eager import without_autocast
from ttlib_peft.tt_linear import TTLinear

# The residual start scales the last core down: with all cores at full size the first steps move the update in every
# core at once, which acts like a learning rate several times higher.  Measured in docs/initialisation.md.
RESIDUAL_DAMPING = 0.1

# Layers whose weight is (in, out), as the update is; torch.nn.Linear has (out, in).
_STORED_AS_IN_BY_OUT = (Conv1D, nn.Embedding)

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "identity": nn.Identity,
}  # fmt: skip


class TensorAdapterLayer(nn.Module, BaseTunerLayer):
    """A frozen linear layer with one or more adapters.

    A method says how to build an adapter (`_build`) and what it does before (`_adapt_input`) or after
    (`_adapt_output`) the frozen layer; one whose adapter is a matrix (`delta_factors`) can also be merged.
    """

    in_features: int
    out_features: int
    # The name PEFT shows in reports: "loretta_rep", "loretta_adp"
    method: str
    # PEFT looks for adapters under these attributes, which are dicts keyed by adapter name
    other_param_names: tuple[str, ...] = ("dropout", "scaling", "_initial_scaling")

    def __init__(self, base_layer: nn.Module, **quantization: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.quantization_backend = resolve_quantization_backend(self.get_base_layer(), **quantization)
        self.dropout: dict[str, float] = {}
        self.scaling: dict[str, float] = {}
        self._initial_scaling: dict[str, float] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        sizes: Any = _get_in_out_features(self.get_base_layer())  # known: the tuner has looked at its type
        self.in_features, self.out_features = sizes

    def update_layer(
        self,
        adapter_name: str,
        config: TensorAdapterConfig,
        *,
        generator: np.random.Generator,
        inference_mode: bool = False,
    ) -> None:
        """Add an adapter, or make the one of that name anew."""
        self.dropout[adapter_name] = config.dropout
        self.scaling[adapter_name] = self._initial_scaling[adapter_name] = self._build(adapter_name, config, generator)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # Adapters are made on the right device and in the dtype of the base layer (see `_tt_linear`).  PEFT calls
        # this again after loading; its own version would then round float32 adapters of a bfloat16 model.
        target = device or self._get_base_layer_device_and_dtype(self.get_base_layer())[0]
        for attribute in self.adapter_layer_names:
            adapters = getattr(self, attribute)
            if adapter_name in adapters and adapters[adapter_name].flat.device.type != "meta":
                adapters[adapter_name].to(target)

    def _tt_linear(
        self,
        rows: int,
        cols: int,
        config: TensorAdapterConfig,
        generator: np.random.Generator,
        *,
        name: str,
        bias: bool = False,
        shape: Sequence[int] | None = None,
        std: float | None = None,
    ) -> TTLinear:
        """Make one tensor-train matrix, by default with the paper's spread (entries of variance 1 / (rows + cols)).

        *shape* stands in place of the configuration's `tensor_shape`.
        """
        device, dtype = self._get_base_layer_device_and_dtype(self.get_base_layer())
        if shape is None:
            shapes = config.tensor_shape
            shape = shapes.get(f"{rows}x{cols}") if isinstance(shapes, dict) else shapes
        return TTLinear(
            rows,
            cols,
            tensor_rank=config.rank_of(name),
            shape=shape,
            bias=bias,
            std=(rows + cols) ** -0.5 if std is None else std,
            generator=generator,
            device=device,
            dtype=dtype if dtype is not None and dtype.is_floating_point else torch.float32,
        )

    def _build(self, adapter_name: str, config: TensorAdapterConfig, generator: np.random.Generator) -> float:
        """Make the parameters of an adapter and return its scaling."""
        raise NotImplementedError

    def _adapt_input(self, adapter_name: str, x: Tensor) -> Tensor:  # noqa: ARG002
        return x

    def _adapt_output(self, adapter_name: str, x: Tensor, result: Tensor) -> Tensor:  # noqa: ARG002
        return result

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """Run the frozen layer with the active adapters around it, or with one for each sample."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or (self.merged and adapter_names is None):
            return self.base_layer(x, *args, **kwargs)
        applied = self._applied(x, adapter_names)
        inputs = x
        for name, rows in applied:
            inputs = _on_rows(rows, partial(self._adapt_input, name), inputs)
        result = self._run_base_layer(inputs, *args, **kwargs)
        for name, rows in applied:
            result = _on_rows(rows, partial(self._adapt_output, name), x, result)
        return result

    def _run_base_layer(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = self.base_layer(x, *args, **kwargs)
        backend = self.quantization_backend
        return result if backend is None else backend.maybe_clone_base_result(result)

    def _applied(self, x: Tensor, adapter_names: list[str] | None) -> list[tuple[str, Tensor | None]]:
        """Return the adapters that this layer has and the rows of the batch that each is for; None stands for all."""
        if adapter_names is None:
            return [(name, None) for name in self.active_adapters if name in self.scaling]
        if self.merged:
            msg = "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            raise ValueError(msg)
        if len(adapter_names) != len(x):
            msg = (
                "Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively."
            )
            raise ValueError(msg)
        return [
            (name, torch.tensor([row for row, own in enumerate(adapter_names) if own == name], device=x.device))
            for name in dict.fromkeys(adapter_names)
            if name in self.scaling
        ]

    def role(self, adapter_name: str) -> str:  # noqa: ARG002
        """Say in a word what an adapter is to this layer."""
        return "update"

    def _drop(self, adapter_name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Apply dropout, in the dtype of the adapter; without dropout x stays as it is."""
        probability = self.dropout[adapter_name]
        return dropout(self._cast_input_dtype(x, dtype), probability, self.training) if probability else x

    def delta_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return P (in, k) and Q (k, out) with P Q the update of the weight as (in, out), scaling included."""
        msg = f"a {type(self).__name__} is not an update of the weight: it cannot be merged or exported to LoRA"
        raise NotImplementedError(msg)

    def _starts_from_weight(self, config: TensorAdapterConfig, train: TTLinear) -> bool:
        """Tell whether to start from the frozen weight: not where cores are to be loaded or there are no numbers."""
        return config.init_weights == "spectral" and not config.inference_mode and not train.flat.is_meta

    def _dense_weight(self) -> Tensor:
        """Return the frozen weight as (in, out)."""
        weight = self.get_base_weight()
        return weight if isinstance(self.get_base_layer(), _STORED_AS_IN_BY_OUT) else weight.T

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:  # noqa: ARG002
        """Tell whether the adapter is an update of the weight, which is of low rank then."""
        return type(self).delta_factors is not TensorAdapterLayer.delta_factors

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """Return the update in the layout of the frozen weight, calculated in at least float32."""
        p, q = self.delta_factors(adapter_name)
        wide = torch.promote_types(p.dtype, torch.float32)
        with without_autocast(p.device):
            delta = p.to(wide) @ q.to(wide)  # (in, out)
        return delta if isinstance(self.get_base_layer(), _STORED_AS_IN_BY_OUT) else delta.T

    @torch.no_grad()
    def check_merge(self, adapter_names: list[str] | None = None) -> None:
        """Raise what `merge` would raise, without changing anything and mostly without forming the update."""
        wanted = self.active_adapters if adapter_names is None else adapter_names
        names = [name for name in wanted if name in self.scaling and name not in self.merged_adapters]
        if not names:
            return
        self._check_mergeable()
        weight = self.get_base_weight()
        bound = weight.abs().max()
        for name in names:
            p, q = self.delta_factors(name)
            bound = bound + p.shape[1] * p.abs().max().to(bound) * q.abs().max().to(bound)
        if not bound < torch.finfo(weight.dtype).max / 2:  # NaN is not less than anything
            self._merged_weight(names)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:  # noqa: ARG002
        """Add the active (or named) adapters to the frozen weight.

        Always safe: the sum is checked before the weight is touched, so `safe_merge` changes nothing.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.scaling]
        if names:
            self._check_mergeable()
            self.set_base_weight(self._merged_weight(names))
            self.merged_adapters.extend(names)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Subtract every merged adapter from the weight again (exact up to the rounding of its dtype)."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.set_base_weight(self._merged_weight([name for name in self.merged_adapters if name in self.scaling], -1))
        self.merged_adapters.clear()

    def _check_mergeable(self) -> None:
        backend = self.quantization_backend
        if backend is not None and not backend.supports_merge:
            msg = f"a weight quantised with {backend.backend_name} cannot be merged into: load the model unquantised"
            raise TypeError(msg)

    def _merged_weight(self, names: list[str], sign: int = 1) -> Tensor:
        """Return the frozen weight plus (or minus) the updates, checked."""
        weight = self.get_base_weight()
        merged = weight
        for name in names:
            delta = self.get_delta_weight(name).to(weight.device)
            merged = merged.to(torch.promote_types(merged.dtype, delta.dtype)) + sign * delta
            finite = torch.isfinite(merged.to(weight.dtype))
            if not finite.all():
                # The first sentence is the one PEFT's users and tests know.
                msg = (
                    f"NaNs detected in the merged weights. The adapter {name} seems to be broken: "
                    f"{int((~finite).sum())} of {merged.numel()} entries would be NaN or infinite; "
                    "the weight was left as it was"
                )
                raise ValueError(msg)
        return merged.to(weight.dtype)

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set the scaling of one adapter to *scale* times its configured value."""
        if adapter in self.scaling:
            self.scaling[adapter] = scale * self._initial_scaling[adapter]

    def scale_layer(self, scale: float) -> None:
        """Multiply the scaling of the active adapters by *scale*."""
        for name in self.active_adapters:
            if name in self.scaling:
                self.scaling[name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the scaling of the active adapters by *scale*; None restores the configured one."""
        for name in self.active_adapters:
            if name in self.scaling:
                scaling = self._initial_scaling[name] if scale is None else self.scaling[name] / scale
                self.scaling[name] = scaling

    def extra_repr(self) -> str:
        """Name the quantisation of the frozen layer, if there is one."""
        return quantization_extra_repr(self)

    def __repr__(self) -> str:
        return f"{self.method}.{super().__repr__()}"


def start_at_zero(first: TTLinear, last: TTLinear, scheme: bool | InitWeights) -> None:
    """Apply the two starts that make the product of matrices begin at exactly zero; other schemes need nothing."""
    if scheme in ("residual", "spectral"):
        last.scale_last_core(RESIDUAL_DAMPING)
        for train in {first, last}:
            train.keep_start()
    elif scheme == "zero":
        last.scale_last_core(0.0)


def activation(name: str) -> nn.Module:
    """Return the activation module of that name."""
    return _ACTIVATIONS[name]()


def _on_rows(rows: Tensor | None, adapt: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return the last tensor with the rows replaced by what *adapt* makes of the tensors' rows."""
    if rows is None:
        return adapt(*tensors)
    return tensors[-1].index_copy(0, rows, adapt(*[tensor[rows] for tensor in tensors]))

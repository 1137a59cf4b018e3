"""What PEFT 0.19 and 0.20 lack, so that no other file asks which release it runs on.

From 0.21 on everything here is PEFT's own.  Before, three things are missing: a tuner is not asked for its state dict
(below 0.21), biases of the base model are saved for LoRA alone (below 0.21), and layers have no quantisation backend
(below 0.20).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import peft
from peft import PeftType
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

__all__ = [
    "BaseTuner",
    "BaseTunerLayer",
    "NoMatchingPeftModuleError",
    "get_quantization_kwargs",
    "list_as_peft_type",
    "quantization_extra_repr",
    "resolve_quantization_backend",
]

try:
    from peft.utils.error import NoMatchingPeftModuleError
except ImportError:  # below 0.21 a plain ValueError says it

    class NoMatchingPeftModuleError(ValueError):  # type: ignore[no-redef]
        """Raised by nothing."""


_ASKS_TUNERS = hasattr(BaseTuner, "_get_adapter_state_dict")  # 0.21
_HAS_BACKENDS = hasattr(BaseTunerLayer, "get_base_weight")  # 0.20


def list_as_peft_type(name: StrEnum) -> None:
    """Have ``list(PeftType)`` hold a method of ours too, where PEFT asks it before saving an adapter (0.19 and 0.20).

    The members, the tables and the attributes of PEFT's enum stay as they are: its class becomes a subclass of its
    class that iterates over our name after PEFT's.  Does nothing where PEFT asks the tuner, and nothing twice.
    """
    listed: list[Any] = list(PeftType)
    if _ASKS_TUNERS or name in listed:
        return
    listing: Any = type(PeftType)  # not EnumType: somebody has been here, if only we with another name

    class _ListsOneMore(listing):
        def __iter__(cls) -> Any:  # noqa: N805  # a metaclass
            yield from super().__iter__()
            yield name

    PeftType.__class__ = _ListsOneMore  # type: ignore[method-assign]


class _BaseTunerBefore021(BaseTuner):
    """Refuses what would be trained and then not saved."""

    def _check_new_adapter_config(self, config: PeftConfig) -> None:
        super()._check_new_adapter_config(config)
        bias = getattr(config, "bias", "none")
        if bias != "none":
            msg = (
                f"peft {peft.__version__} would train the biases (bias={bias!r}) and not save them: "
                "use peft>=0.21, or bias='none'"
            )
            raise NotImplementedError(msg)


class _QuantizedBefore020:
    """What a layer needs to know of a quantised base: the forward pass works, merging does not."""

    layer_type = "linear"
    supports_merge = False

    def __init__(self, base_layer: nn.Module) -> None:
        self.backend_name = f"{type(base_layer).__name__} (peft {peft.__version__} merges none; 0.20 does)"

    @staticmethod
    def maybe_clone_base_result(x: Tensor) -> Tensor:
        return x.clone()  # what bitsandbytes returns may be a view that autograd cannot add to


class _BaseTunerLayerBefore020(BaseTunerLayer):
    """Reaches the weight of the base layer."""

    quantization_backend: Any = None

    def get_base_weight(self) -> Tensor:
        """Return the weight of the base layer."""
        layer: Any = self.get_base_layer()
        return layer.weight.data

    def set_base_weight(self, weight_data: Tensor) -> None:
        """Put another tensor in the place of the weight of the base layer."""
        self.get_base_layer().weight.data = weight_data


def _quantized_before_020(base_layer: nn.Module, **_: Any) -> _QuantizedBefore020 | None:
    weight = getattr(base_layer, "weight", None)
    # Quantised weights are integers, tensors of another package's class, or called something else than weight
    plain = (
        isinstance(weight, Tensor)
        and weight.is_floating_point()
        and type(weight).__module__.partition(".")[0] == "torch"
    )
    return None if plain or not hasattr(base_layer, "in_features") else _QuantizedBefore020(base_layer)


def _extra_repr_before_020(layer: nn.Module) -> str:
    backend = getattr(layer, "quantization_backend", None)
    return "" if backend is None else f"quantization_backend={backend.backend_name!r}"


def _no_kwargs_before_020(model: nn.Module) -> dict[str, Any]:  # noqa: ARG001
    return {}


if TYPE_CHECKING or _HAS_BACKENDS:
    from peft.utils import get_quantization_kwargs, quantization_extra_repr, resolve_quantization_backend
else:
    BaseTunerLayer = _BaseTunerLayerBefore020
    get_quantization_kwargs = _no_kwargs_before_020
    quantization_extra_repr = _extra_repr_before_020
    resolve_quantization_backend = _quantized_before_020

if not TYPE_CHECKING and not _ASKS_TUNERS:
    BaseTuner = _BaseTunerBefore021

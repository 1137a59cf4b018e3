"""Make the methods known to PEFT.

PEFT's own `register_peft_method` accepts only members of its PeftType enum and has no plug-in mechanism.  Its
registries are dicts keyed by a str-enum, however, and a str-enum of ours hashes and compares alike, so three
dict entries a method do what registration does, and no line of PEFT is changed.
"""

from __future__ import annotations

from typing import Any

from peft import mapping

from ttlib_peft.compat import list_as_peft_type
from ttlib_peft.config import TensorAdapterConfig, TensorPeftType
from ttlib_peft.methods.loretta_adp import LorettaAdpConfig, LorettaAdpModel
from ttlib_peft.methods.loretta_rep import LorettaRepConfig, LorettaRepModel
from ttlib_peft.methods.meta_tt import MetaTTConfig, MetaTTModel
from ttlib_peft.methods.tt_lora import TtLoraConfig, TtLoraModel
from ttlib_peft.tuner import TensorAdapterTuner

# Annotated by PEFT as keyed by its own enum; any str-enum serves.
_CONFIGS: dict[Any, Any] = mapping.PEFT_TYPE_TO_CONFIG_MAPPING
_TUNERS: dict[Any, Any] = mapping.PEFT_TYPE_TO_TUNER_MAPPING
_PREFIXES: dict[Any, str] = mapping.PEFT_TYPE_TO_PREFIX_MAPPING

_METHODS: tuple[tuple[TensorPeftType, type[TensorAdapterConfig], type[TensorAdapterTuner]], ...] = (
    (TensorPeftType.LORETTA_REP, LorettaRepConfig, LorettaRepModel),
    (TensorPeftType.LORETTA_ADP, LorettaAdpConfig, LorettaAdpModel),
    (TensorPeftType.TT_LORA, TtLoraConfig, TtLoraModel),
    (TensorPeftType.META_TT, MetaTTConfig, MetaTTModel),
)


def register(name: TensorPeftType, config: type[TensorAdapterConfig], tuner: type[TensorAdapterTuner]) -> None:
    """Enter one method; never overwrite somebody else's.

    Entering it again does nothing; after a reload of this package the new classes take the place of the old.

    Raises KeyError when another package holds the name or the prefix, for example PEFT itself in a later version.
    """
    _check_free(name, config, tuner)
    _CONFIGS[name] = config
    _TUNERS[name] = tuner
    _PREFIXES[name] = tuner.prefix
    list_as_peft_type(name)


def register_all() -> None:
    """Enter all methods, or none."""
    for method in _METHODS:
        _check_free(*method)
    for method in _METHODS:
        register(*method)


def _check_free(name: TensorPeftType, config: type[TensorAdapterConfig], tuner: type[TensorAdapterTuner]) -> None:
    for registry, own in ((_CONFIGS, config), (_TUNERS, tuner)):
        holder = registry.get(name)
        if holder is not None and _origin(holder) != _origin(own):
            msg = (
                f"PEFT already has a method {name.value}, from {holder.__module__}: two cannot live under one name; "
                "use that one, or import only one of the packages"
            )
            raise KeyError(msg)
    for other, prefix in _PREFIXES.items():
        if prefix == tuner.prefix and other != name:
            msg = (
                f"PEFT already has a method {other}, whose parameters are called {prefix}… too: files of the two could "
                f"not be told apart; use that one in place of {name.value}, or import only one of the packages"
            )
            raise KeyError(msg)


def _origin(holder: type) -> tuple[str, str]:
    """A class and what a reload made of it have the same."""
    return holder.__module__, holder.__qualname__

"""Make the methods known to PEFT.

PEFT's own `register_peft_method` accepts only members of its PeftType enum and has no plug-in mechanism.  Its
registries are dicts keyed by a str-enum, however, and a str-enum of ours hashes and compares alike, so three
dict entries a method do what registration does, and no line of PEFT is changed.
"""

from __future__ import annotations

from typing import Any

from peft import mapping

from ttlib_peft.config import TensorAdapterConfig, TensorPeftType
from ttlib_peft.methods.loretta_adp import LorettaAdpConfig, LorettaAdpModel
from ttlib_peft.methods.loretta_rep import LorettaRepConfig, LorettaRepModel
from ttlib_peft.tuner import TensorAdapterTuner

# Annotated by PEFT as keyed by its own enum; any str-enum serves.
_CONFIGS: dict[Any, Any] = mapping.PEFT_TYPE_TO_CONFIG_MAPPING
_TUNERS: dict[Any, Any] = mapping.PEFT_TYPE_TO_TUNER_MAPPING
_PREFIXES: dict[Any, str] = mapping.PEFT_TYPE_TO_PREFIX_MAPPING


def register(name: TensorPeftType, config: type[TensorAdapterConfig], tuner: type[TensorAdapterTuner]) -> None:
    """Enter one method, or do nothing if it is there; never overwrite somebody else's.

    Raises KeyError when another package holds the name, for example PEFT itself in a later version.
    """
    holder = _CONFIGS.get(name)
    if holder is not None and holder is not config:
        msg = (
            f"PEFT already has a method {name.value}, from {holder.__module__}: two cannot live under one name; "
            "use that one, or import only one of the packages"
        )
        raise KeyError(msg)
    _CONFIGS[name] = config
    _TUNERS[name] = tuner
    _PREFIXES[name] = tuner.prefix


def register_all() -> None:
    """Enter both methods."""
    register(TensorPeftType.LORETTA_REP, LorettaRepConfig, LorettaRepModel)
    register(TensorPeftType.LORETTA_ADP, LorettaAdpConfig, LorettaAdpModel)

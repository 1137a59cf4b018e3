"""Another name for an adapter, which PEFT has no call for."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from peft import PeftModel
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from ttlib_peft.layer import TensorAdapterLayer
from ttlib_peft.loading import check_adapter_name


def rename_adapter(model: PeftModel, name: str, new_name: str) -> None:
    """Give an adapter another name, in every layer, trained head and norm; its numbers and whether it is active stay.

    >>> import torch, peft, ttlib_peft
    >>> config = ttlib_peft.LorettaRepConfig(r=4, tensor_rank=2, target_modules=["0"])
    >>> model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(16, 12)), config)
    >>> ttlib_peft.rename_adapter(model, "default", "news")
    >>> list(model.peft_config), model.active_adapters
    (['news'], ['news'])

    Raises ValueError for a name that the model does not have, a new one that it has, or one that could not be a folder;
    nothing is renamed then.
    """
    check_adapter_name(new_name)
    known = list(model.peft_config)
    if name not in known or new_name in known:
        fact = f"has no adapter {name!r}" if name not in known else f"has an adapter {new_name!r} already"
        msg = f"the model {fact}: its adapters are {', '.join(map(repr, known))}"
        raise ValueError(msg)
    for module in model.modules():
        if isinstance(module, TensorAdapterLayer):
            _rename(module, [*module.adapter_layer_names, *module.other_param_names], name, new_name)
            module.merged_adapters[:] = [new_name if own == name else own for own in module.merged_adapters]
        elif isinstance(module, AuxiliaryTrainingWrapper):
            _rename(module, module.adapter_layer_names, name, new_name)
            module._adapters = {new_name if own == name else own for own in module._adapters}
    _rekey(model.peft_config, name, new_name)
    for holder in (model, model.base_model):  # the tuner keeps its own
        holder.active_adapter = _renamed(holder.active_adapter, name, new_name)


def _rename(module: nn.Module, attributes: Any, name: str, new_name: str) -> None:
    for attribute in attributes:
        _rekey(getattr(module, attribute), name, new_name)
    module._active_adapter = _renamed(module._active_adapter, name, new_name)


def _renamed(active: Any, name: str, new_name: str) -> Any:
    if isinstance(active, str):
        return new_name if active == name else active
    return [_renamed(own, name, new_name) for own in active]


def _rekey(mapping: MutableMapping[str, Any] | nn.ModuleDict, name: str, new_name: str) -> None:
    """Change one key of a mapping and leave its order, by which PEFT chooses the next adapter when one is deleted."""
    if name in mapping:
        entries = [(new_name if key == name else key, value) for key, value in mapping.items()]
        mapping.clear()
        for key, value in entries:
            mapping[key] = value

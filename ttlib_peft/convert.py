"""From LoRETTA_rep to plain LoRA, exactly: the update is low-rank by construction."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ttlib_peft.adapter_folder import write_adapter
from ttlib_peft.config import TensorAdapterConfig
from ttlib_peft.layer import TensorAdapterLayer

# Settings that select the same modules, train the same heads and describe the same task in a LoraConfig.
_CARRIED_OVER = (
    "task_type", "base_model_name_or_path", "revision", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "modules_to_save", "bias",
)  # fmt: skip


@torch.no_grad()
def convert_to_lora(model: PeftModel, adapter_name: str = "default") -> tuple[LoraConfig, dict[str, Tensor]]:
    """Return a LoRA configuration and state dict that compute the same function as a LoRETTA_rep adapter.

    >>> import torch, peft, ttlib_peft
    >>> net = torch.nn.Sequential(torch.nn.Linear(16, 12))
    >>> model = peft.get_peft_model(net, ttlib_peft.LorettaRepConfig(r=4, tensor_rank=2, target_modules=["0"]))
    >>> config, weights = ttlib_peft.convert_to_lora(model)
    >>> config.r, weights["base_model.model.0.lora_A.weight"].shape
    (4, torch.Size([4, 16]))

    The LoRA rank is the largest rank that a layer needs: the bond at the split, twice that with
    `init_weights="residual"` (the start is part of the update), one more with "paper-mean".  Narrower layers are
    padded with zeros, so that r is one number, as servers want it; the scaling is folded in (lora_alpha = r).
    Nothing is approximated.  The trained head and norms come along.

    Raises TypeError for a model without such an adapter; NotImplementedError for LoRETTA_adp, which is no update
    of a weight.
    """
    config = getattr(model, "peft_config", {}).get(adapter_name)
    if not isinstance(config, TensorAdapterConfig):
        known = {name: type(c).__name__ for name, c in getattr(model, "peft_config", {}).items()}
        msg = f"adapter {adapter_name!r} is not a LoRETTA_rep adapter of this model; it has {known or 'no adapters'}"
        raise TypeError(msg)
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, TensorAdapterLayer) and adapter_name in layer.scaling
    }
    factors = {name: layer.delta_factors(adapter_name) for name, layer in layers.items()}
    rank = max(p.shape[1] for p, _ in factors.values())
    weights = _head_and_norms(model, adapter_name, tuple(layers))
    for name, (p, q) in factors.items():
        # PEFT's LoRA keeps the factors of an embedding as bare parameters
        embedding = isinstance(layers[name].get_base_layer(), nn.Embedding)
        a, b = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
        weights[f"{name}.{a}"] = _pad(p.T, (rank, p.shape[0]))
        weights[f"{name}.{b}"] = _pad(q.T, (q.shape[1], rank))
    conv1d = any(isinstance(layer.get_base_layer(), Conv1D) for layer in layers.values())
    settings = {name: copy.copy(getattr(config, name)) for name in _CARRIED_OVER}
    lora = LoraConfig(r=rank, lora_alpha=rank, fan_in_fan_out=conv1d, inference_mode=True, **settings)
    return lora, weights


def save_as_lora(model: PeftModel, folder: str | os.PathLike[str], adapter_name: str = "default") -> Path:
    """Write a LoRETTA_rep adapter as a plain PEFT LoRA adapter, loadable without this library.

    The weights are written first and whole (a temporary file, then a rename), the configuration last.  Returns
    the folder.  Raises as `convert_to_lora`.
    """
    config, weights = convert_to_lora(model, adapter_name)
    return write_adapter(folder, config, weights)


def _head_and_norms(model: PeftModel, adapter_name: str, layer_names: tuple[str, ...]) -> dict[str, Tensor]:
    saved = get_peft_model_state_dict(model, adapter_name=adapter_name)
    own = tuple(f"{name}.{model.get_submodule(name).method}_" for name in layer_names)
    return {name: tensor.detach().clone() for name, tensor in saved.items() if not name.startswith(own)}


def _pad(matrix: Tensor, shape: tuple[int, int]) -> Tensor:
    padded = matrix.new_zeros(shape)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded

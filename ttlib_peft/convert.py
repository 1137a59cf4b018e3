"""From LoRETTA_rep to plain LoRA, exactly: the update is low-rank by construction."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ttlib_peft.adapter_folder import CARRIED_OVER, ROOT, write_adapter
from ttlib_peft.config import TensorAdapterConfig, size
from ttlib_peft.layer import TensorAdapterLayer
from ttlib_peft.tensorized import TensorizedLinear

_log = logging.getLogger(__name__)

# What PEFT trains whole in every classifier.
_HEADS = ("classifier", "score")
# An error above this is more than the rounding of the adapter's own dtype.
_UNNOTICED = 1e-6


@torch.no_grad()
def convert_to_lora(
    model: PeftModel, adapter_name: str = "default", *, rank: int | None = None
) -> tuple[LoraConfig, dict[str, Tensor]]:
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
    Nothing is approximated, unless *rank* caps r: wider updates are then cut to their leading singular directions,
    the best approximation there is (Eckart and Young 1936), and a warning names the largest relative error.

    The trained head and norms come along, a module of `tensorize_modules` as a dense layer in `modules_to_save`.

    Raises TypeError for a model without such an adapter; NotImplementedError for LoRETTA_adp, which is no update
    of a weight; ShapeError for an impossible rank.
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
    dense = {name: layer for name, layer in layers.items() if isinstance(layer, TensorizedLinear)}
    updates = {name: layer for name, layer in layers.items() if name not in dense}
    factors = _within_rank({name: layer.delta_factors(adapter_name) for name, layer in updates.items()}, rank)
    weights = _head_and_norms(model, adapter_name, layers)
    for name, layer in dense.items():
        merged = layer.merged_layer([adapter_name]).named_parameters()
        weights |= {f"{name}.{part}": parameter.detach().clone() for part, parameter in merged}
    r = max((p.shape[1] for p, _ in factors.values()), default=1)
    for name, (p, q) in factors.items():
        # PEFT's LoRA keeps the factors of an embedding as bare parameters
        embedding = isinstance(updates[name].get_base_layer(), nn.Embedding)
        a, b = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
        weights[f"{name}.{a}"] = _pad(p.T, (r, p.shape[0]))
        weights[f"{name}.{b}"] = _pad(q.T, (q.shape[1], r))
    return _lora_config(config, updates, [*dense], r), weights


def save_as_lora(
    model: PeftModel, folder: str | os.PathLike[str], adapter_name: str = "default", *, rank: int | None = None
) -> Path:
    """Write a LoRETTA_rep adapter as a plain PEFT LoRA adapter, loadable without this library.

    The weights are written first and whole (a temporary file, then a rename), the configuration last.  Returns
    the folder.  Logs a warning when the adapter holds a head, norms or biases, which PEFT loads and servers that take
    LoRA factors alone do not.  Raises as `convert_to_lora`.
    """
    config, weights = convert_to_lora(model, adapter_name, rank=rank)
    others = sorted(key for key in weights if ".lora_" not in key)
    if others:
        _log.warning(
            "the LoRA adapter holds %d tensors that are no LoRA factors (%s, …): PEFT loads them, servers such as vLLM "
            "do not; for those merge the adapter, or train without modules_to_save, norms and biases",
            len(others),
            others[0],
        )
    return write_adapter(folder, config, weights)


def _lora_config(
    config: TensorAdapterConfig, updates: Mapping[str, TensorAdapterLayer], dense: list[str], r: int
) -> LoraConfig:
    settings = {name: copy.copy(getattr(config, name)) for name in CARRIED_OVER}
    settings["modules_to_save"] = _saved_whole(config, dense) or None
    settings["bias"] = "lora_only" if config.bias == "loretta_only" else config.bias
    conv1d = any(isinstance(layer.get_base_layer(), Conv1D) for layer in updates.values())
    return LoraConfig(r=r, lora_alpha=r, fan_in_fan_out=conv1d, inference_mode=True, **settings)


def _saved_whole(config: TensorAdapterConfig, dense: list[str]) -> list[str]:
    """The modules that LoRA has to train whole: a tensorised layer of a head is a part of that head again."""
    names = [*(config.modules_to_save or ()), *(name.removeprefix(ROOT) for name in dense)]
    # PEFT itself adds these heads for classifiers, and one module must not be named twice
    heads = _HEADS if config.task_type in ("SEQ_CLS", "TOKEN_CLS") else ()
    return [*dict.fromkeys(next((head for head in heads if head in name.split(".")), name) for name in names)]


def _within_rank(factors: dict[str, tuple[Tensor, Tensor]], rank: int | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Cut the updates to a rank, and warn of the largest error this makes."""
    if rank is None:
        return factors
    limit, errors = size(rank, "rank"), {}
    cut = dict(factors)
    for name, (p, q) in factors.items():
        if p.shape[1] > limit:
            cut[name], errors[name] = _leading(p, q, limit)
    worst = max(errors, key=errors.__getitem__, default=None)
    if worst is not None and errors[worst] > _UNNOTICED:
        msg = (
            f"rank={limit} cuts {len(errors)} of {len(factors)} updates; the largest relative error is "
            f"{errors[worst]:.1e} in the Frobenius norm, in {worst.removeprefix(ROOT)}"
        )
        warnings.warn(msg, RuntimeWarning, stacklevel=4)
    return cut


def _leading(p: Tensor, q: Tensor, rank: int) -> tuple[tuple[Tensor, Tensor], float]:
    """Return the best factors of that rank, balanced, and their relative error; P Q is never formed."""
    left, above = torch.linalg.qr(p.double())
    right, below = torch.linalg.qr(q.double().T)
    u, s, vt = torch.linalg.svd(above @ below.T, full_matrices=False)
    root = s[:rank].sqrt()
    cut = (left @ u[:, :rank] * root).to(p.dtype), (root[:, None] * (vt[:rank] @ right.T)).to(q.dtype)
    whole = float(s.norm())
    return cut, float(s[rank:].norm()) / whole if whole else 0.0


def _head_and_norms(model: PeftModel, adapter_name: str, layers: Mapping[str, TensorAdapterLayer]) -> dict[str, Tensor]:
    saved = get_peft_model_state_dict(model, adapter_name=adapter_name)
    own = tuple(
        # of a tensorised module nothing stays; what it becomes is calculated
        f"{name}." if isinstance(layer, TensorizedLinear) else f"{name}.{layer.method}_"
        for name, layer in layers.items()
    )
    return {name: tensor.detach().clone() for name, tensor in saved.items() if not name.startswith(own)}


def _pad(matrix: Tensor, shape: tuple[int, int]) -> Tensor:
    padded = matrix.new_zeros(shape)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded

"""Adapters as files, whatever they are spread over: gathered, saved and loaded by all ranks together."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ttlib.errors import TTFileError
from ttlib_peft.atomic import replacing
from ttlib_peft.distributed.lockstep import is_distributed, on_rank_zero, rank


def gather_adapter(model: nn.Module, adapter_name: str = "default") -> dict[str, Tensor]:
    """Return an adapter's tensors, whole and copied to the CPU, on rank 0 and nothing on the others; all call this.

    >>> import torch, peft, ttlib_peft
    >>> net = torch.nn.Sequential(torch.nn.Linear(16, 12))
    >>> config = ttlib_peft.LorettaRepConfig(r=4, tensor_rank=2, target_modules=["0"], init_weights="zero")
    >>> sorted(gather_adapter(peft.get_peft_model(net, config)))
    ['base_model.model.0.loretta_rep_A.flat', 'base_model.model.0.loretta_rep_B.flat']

    The names are those in PEFT's files.  Sharded, in DistributedDataParallel or alone in one process: the call is the
    same, and so is what it returns.  Only the adapter is gathered, one tensor after another.

    Raises TypeError for a model without such an adapter.
    """
    names, tensors = _gathered(_with_adapter(model, adapter_name), adapter_name)
    return {name: tensors[key] for name, key in names.items() if key in tensors}


def save_adapter(model: nn.Module, folder: str | os.PathLike[str], adapter_name: str = "default") -> Path:
    """Write an adapter as `PeftModel.from_pretrained` reads it and return its folder; every rank calls this.

    Rank 0 writes, the others wait.  Files are replaced whole, the weights first and the configuration last, so that a
    folder with a configuration is complete; other files in it stay.  As with `save_pretrained`, an adapter that is
    not called "default" gets a folder of its name in *folder*.

    Raises TypeError for a model that is no PeftModel or is without such an adapter, ValueError for a name that is a
    path.  What fails on rank 0 is raised there, and as PeerError on the other ranks.
    """
    peft_model = _with_adapter(model, adapter_name)
    if not isinstance(peft_model, PeftModel):
        msg = f"a {type(peft_model).__name__} is no PeftModel: write what gather_adapter returns as you need it"
        raise TypeError(msg)
    if Path(adapter_name).name != adapter_name:
        msg = f"adapter {adapter_name!r} cannot have a folder of its name inside another: give it another name"
        raise ValueError(msg)
    _, tensors = _gathered(peft_model, adapter_name)
    on_rank_zero(lambda: _write(peft_model, Path(folder), adapter_name, tensors))
    return Path(folder) if adapter_name == "default" else Path(folder, adapter_name)


@torch.no_grad()
def load_adapter(model: nn.Module, folder: str | os.PathLike[str], adapter_name: str = "default") -> None:
    """Put a saved adapter into the adapter of that name, also of a sharded model; every rank calls this.

    Rank 0 alone reads *folder*, which holds the `adapter_model.safetensors`.  The adapter has to be there already,
    made with the same configuration.

    Raises TTFileError for a file that is not one of this adapter: no safetensors, or with tensors that are missing,
    unknown, of another shape, or hold NaN or infinity; OSError where it cannot be read; both as PeerError on the ranks
    other than 0.  The model is then as it was.  TypeError for a model without such an adapter.
    """
    model = _with_adapter(model, adapter_name)
    names = on_rank_zero(lambda: _names(model, adapter_name))
    state = model.state_dict()
    stored: dict[str, Tensor] = {}

    def read() -> list[str]:
        stored.update(_read(Path(folder), {name: state[key] for name, key in names.items()}))
        return list(stored)

    found = on_rank_zero(read)
    model.load_state_dict({names[name]: _spread(stored.get(name), state[names[name]]) for name in found}, strict=False)


def _with_adapter(model: nn.Module, adapter_name: str) -> nn.Module:
    """Return the model inside DistributedDataParallel or torch.compile, after a look at its adapters."""
    while isinstance(model, DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, DistributedDataParallel) else model._orig_mod  # type: ignore[assignment]
    known = list(getattr(model, "peft_config", {}))
    if adapter_name not in known:
        msg = f"this {type(model).__name__} has no adapter {adapter_name!r}; it has {known or 'none'}"
        raise TypeError(msg)
    return model


def _names(model: nn.Module, adapter_name: str) -> dict[str, str]:
    """Return the name in the model's state of every tensor in an adapter's file, by its name there."""
    # PEFT selects and renames tensors without looking at their numbers: stand-ins show which becomes which
    shadows = {
        key: torch.empty(value.shape, dtype=value.dtype, device="meta")
        for key, value in model.state_dict().items()
        if isinstance(value, Tensor)
    }
    keys = {id(shadow): key for key, shadow in shadows.items()}
    selected = get_peft_model_state_dict(model, state_dict=shadows, adapter_name=adapter_name)
    return {name: keys[id(shadow)] for name, shadow in selected.items()}


@torch.no_grad()
def _gathered(model: nn.Module, adapter_name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the names of an adapter's tensors and, on rank 0, the tensors by their names in the model's state."""
    names = on_rank_zero(lambda: _names(model, adapter_name))  # one list for all, or they would wait for each other
    state, tensors = model.state_dict(), {}
    for key in names.values():
        whole = _whole(state[key])  # takes all ranks
        if rank() == 0:
            tensors[key] = whole.to("cpu", copy=True)
    return names, tensors


def _whole(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor
    sendable: Any = tensor.to(tensor.device_mesh.device_type)  # offloaded shards are on the CPU, and cannot be sent
    return sendable.full_tensor()


def _write(model: PeftModel, folder: Path, adapter_name: str, tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".adapter-") as temporary:
        if (folder / "README.md").is_file():
            shutil.copy(folder / "README.md", temporary)  # PEFT updates the card that it finds
        model.save_pretrained(temporary, state_dict=tensors, selected_adapters=[adapter_name])
        written = [file for file in Path(temporary).rglob("*") if file.is_file()]
        for file in sorted(written, key=lambda file: file.name == CONFIG_NAME):
            with replacing(folder / file.relative_to(temporary)) as beside:
                file.rename(beside)


def _read(folder: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an adapter's file, which is checked to hold what the adapter needs and nothing else."""
    file = folder / SAFETENSORS_WEIGHTS_NAME
    try:
        stored = load_file(file)
    except SafetensorError as error:
        msg = f"{file} is no safetensors file ({error}): take an earlier checkpoint"
        raise TTFileError(msg) from error
    # cores without a start are whole: they were trained without one (see TTLinear)
    needed = {name for name in expected if not name.endswith((".initial", ".offset"))}
    for fact, names in (("lacks", needed - stored.keys()), ("has the unknown", stored.keys() - expected.keys())):
        if names:
            msg = f"{file} {fact} {min(names)} ({len(names)} such): load it into an adapter of the same configuration"
            raise TTFileError(msg)
    for name, tensor in stored.items():
        if tensor.shape != expected[name].shape:
            msg = (
                f"{file} holds {name} with shape {tuple(tensor.shape)}, but the adapter's is "
                f"{tuple(expected[name].shape)}: load it into an adapter of the same configuration"
            )
            raise TTFileError(msg)
        if not torch.isfinite(tensor).all():
            msg = f"{file} holds NaN or infinity in {name}: take an earlier checkpoint"
            raise TTFileError(msg)
    return stored


def _spread(tensor: Tensor | None, like: Tensor) -> Tensor:
    """Return what rank 0 has on every rank, sharded as *like* is."""
    device = like.device_mesh.device_type if isinstance(like, DTensor) else like.device
    whole = torch.empty(like.shape, dtype=like.dtype, device=device)
    if tensor is not None:
        whole.copy_(tensor)
    if is_distributed():
        dist.broadcast(whole, src=0)
    return distribute_tensor(whole, like.device_mesh, like.placements) if isinstance(like, DTensor) else whole

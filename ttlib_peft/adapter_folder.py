"""Folders that hold one adapter: its weights and its configuration, read without running anything, written whole."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path

import torch
from peft import PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ttlib.errors import TTFileError
from ttlib_peft.atomic import write_tensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED_WEIGHTS = "adapter_model.bin"
# Under which the keys of its weights name modules of the base model.
ROOT = "base_model.model."

# Settings that select the same modules and describe the same task, whichever method the configuration is of.
CARRIED_OVER = (
    "task_type", "base_model_name_or_path", "revision", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern",
)  # fmt: skip


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of an adapter folder by name; a pickle may hold tensors and nothing else.

    Raises TTFileError for a folder without weights, or with weights that cannot be read.
    """
    try:
        if (folder / WEIGHTS).is_file():
            return load_file(folder / WEIGHTS)
        if (folder / PICKLED_WEIGHTS).is_file():
            found = torch.load(folder / PICKLED_WEIGHTS, map_location="cpu", weights_only=True)
        else:
            msg = f"no {WEIGHTS} or {PICKLED_WEIGHTS} in {folder}; give the folder that save_pretrained wrote"
            raise TTFileError(msg)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        msg = f"the weights in {folder} cannot be read: {error}"
        raise TTFileError(msg) from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        msg = f"{folder / PICKLED_WEIGHTS} is not a mapping from names to tensors; save the adapter's state dict"
        raise TTFileError(msg)
    return found


def write_adapter(folder: str | os.PathLike[str], config: PeftConfig, weights: dict[str, Tensor]) -> Path:
    """Write an adapter folder, weights first and configuration last, and return it.

    A former adapter's configuration goes before its weights do: a write that is cut short leaves no adapter there
    rather than the weights of one with the configuration of the other.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".writing-") as temporary:
        config.save_pretrained(temporary)
        (target / CONFIG).unlink(missing_ok=True)
        write_tensors(target / WEIGHTS, weights, metadata={})
        for file in Path(temporary).iterdir():  # a model card, where the configuration writes one
            if file.name != CONFIG and not (target / file.name).exists():
                file.replace(target / file.name)
        (Path(temporary) / CONFIG).replace(target / CONFIG)
    return target

"""What a finished method leaves on disk, and the way back for the methods that peft does not know."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ttlib_peft.atomic import replacing, write_tensors
from ttlib_peft.finetune.methods import PEFT_METHODS, trained_names
from ttlib_peft.finetune.settings import METHODS, FinetuneError, Method

TRAINED_FILE = "trained.safetensors"


def saved_folder(method: Method) -> str:
    """The folder, inside a method's own, that holds its result: `adapter`, `model` or `trained`."""
    if method in PEFT_METHODS:
        return "adapter"
    return "model" if method == "full" else "trained"


def save_trained(model: nn.Module, method: Method, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write everything `method` trained to `folder`, with the tokenizer and the config that holds the labels."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        if isinstance(model, PeftModel):
            model.save_pretrained(str(temporary))
            _as_pretrained(model.get_base_model()).config.save_pretrained(str(temporary))
        elif method == "full":
            _as_pretrained(model).save_pretrained(str(temporary))
        else:
            _save_subset(_as_pretrained(model), method, temporary)
        tokenizer.save_pretrained(str(temporary))


def load_trained(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Put the tensors of a `bitfit` or `head` run into a fresh base model with the same head, and return it.

    `folder` is `OUTPUT/<method>/trained`. Nothing is loaded unless the file holds exactly the tensors which that
    method trains in this architecture, each with the shape it has here.
    """
    file = Path(folder, TRAINED_FILE)
    if not file.is_file():
        msg = f"no {TRAINED_FILE} in {folder}; give the folder `trained` of a bitfit or head run"
        raise FinetuneError(msg)
    with safe_open(str(file), framework="pt") as stored:
        method = (stored.metadata() or {}).get("method")
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
    if method not in METHODS:
        msg = f"{file} does not say which method wrote it; save it with save_trained"
        raise FinetuneError(msg)
    parameters = dict(model.named_parameters())
    _check_tensors(tensors, {name: parameters[name] for name in trained_names(model, method)}, file)
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
    return model


def saved_bytes(folder: Path) -> int:
    """The size of the weights in `folder`: all its safetensors files, without config and tokenizer."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _save_subset(model: PreTrainedModel, method: Method, folder: Path) -> None:
    trained = trained_names(model, method)
    tensors: dict[str, torch.Tensor] = {name: p for name, p in model.named_parameters() if name in trained}
    write_tensors(folder / TRAINED_FILE, tensors, metadata={"method": method})
    model.config.save_pretrained(str(folder))


def _check_tensors(stored: dict[str, torch.Tensor], expected: dict[str, nn.Parameter], file: Path) -> None:
    """Refuse a file whose names or shapes are not those of `expected`."""
    missing = sorted(expected.keys() - stored.keys())
    unexpected = sorted(stored.keys() - expected.keys())
    for fact, names in (("lacks", missing), ("has the unexpected", unexpected)):
        if names:
            msg = f"{file} {fact} tensor {names[0]} ({len(names)} such); load it into the same model type"
            raise FinetuneError(msg)
    for name, tensor in stored.items():
        if tensor.shape != expected[name].shape:
            msg = (
                f"{file} holds {name} with shape {tuple(tensor.shape)}, but the model's is "
                f"{tuple(expected[name].shape)}; build the model with the same num_labels and sizes"
            )
            raise FinetuneError(msg)


def _as_pretrained(model: nn.Module) -> PreTrainedModel:
    if not isinstance(model, PreTrainedModel):
        msg = f"expected a transformers model, got {type(model).__name__}"
        raise TypeError(msg)
    return model

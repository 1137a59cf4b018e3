"""Who is trained: trainable parameters by what they belong to."""

from __future__ import annotations

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from ttlib_peft.tuner import is_norm


def trainable_parameters(model: nn.Module) -> dict[str, int]:
    """Count the trainable parameters of any model: adapters, norms, head, body and total.

    >>> import torch, ttlib_peft
    >>> ttlib_peft.trainable_parameters(torch.nn.Linear(3, 2))
    {'adapters': 0, 'norms': 0, 'head': 0, 'body': 8, 'total': 8}

    `adapters` are parameters that a PEFT method added, in a layer, shared by layers or as a prompt; `norms` those of
    normalisation layers, `head` what lies outside the base model of a transformers model (or was named in
    `modules_to_save`), `body` the rest.  A parameter shared between modules counts once.
    """
    counts = dict.fromkeys(("adapters", "norms", "head", "body"), 0)
    prefixes = {
        kind: tuple(name + "." for name, module in model.named_modules() if test(module))
        for kind, test in (("adapters", _is_tuner), ("norms", is_norm), ("head", _is_saved_copy))
    }
    shared = _shared_prefixes(model)
    base = _base_prefix(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith(prefixes["norms"]):
            kind = "norms"
        elif name.startswith(shared) or (name.startswith(prefixes["adapters"]) and ".base_layer." not in name):
            kind = "adapters"
        elif name.startswith(prefixes["head"]) or (base is not None and not name.startswith(base)):
            kind = "head"
        else:
            kind = "body"
        counts[kind] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


def _is_tuner(module: nn.Module) -> bool:
    return isinstance(module, BaseTunerLayer)


def _is_saved_copy(module: nn.Module) -> bool:
    return isinstance(module, ModulesToSaveWrapper)


def _shared_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Where methods keep what belongs to no one layer: shared parameters in the tuner, prompts in the PEFT model."""
    tuners = [
        f"{name}.{tuner.prefix}"
        for name, tuner in model.named_modules()
        if isinstance(tuner, BaseTuner) and getattr(tuner, "prefix", None)  # X-LoRA has none
    ]
    prompts = [f"{name}.prompt_encoder." for name, module in model.named_modules() if isinstance(module, PeftModel)]
    return tuple(prefix.removeprefix(".") for prefix in (*tuners, *prompts))


def _base_prefix(model: nn.Module) -> str | None:
    """The name under which a transformers model with a head keeps its base model, seen from *model*."""
    for name, module in model.named_modules():
        attribute = getattr(type(module), "base_model_prefix", "")
        if attribute and isinstance(getattr(module, attribute, None), nn.Module):
            return f"{name}.{attribute}." if name else f"{attribute}."
    return None

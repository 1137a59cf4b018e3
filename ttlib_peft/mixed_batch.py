"""Batches whose samples are for different adapters: which layer hears of which names, and for how long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from ttlib_peft.layer import TensorAdapterLayer

BASE = "__base__"  # the name PEFT gives the model without an adapter


@contextmanager
def one_adapter_a_sample(model: nn.Module, adapter_names: Sequence[str], *, beams: int = 1) -> Iterator[None]:
    """Tell every adapted module in *model* which adapter each sample of the batch is for, while the context lasts.

    Args:
        model: the model with its adapters, in eval mode.
        adapter_names: a name a sample; "__base__" stands for no adapter.
        beams: how often beam search repeats each sample; the encoder of an encoder-decoder sees it once.

    Raises ValueError in training mode and for names that no layer has.
    """
    if model.training:
        msg = "Cannot pass `adapter_names` when the model is in training mode."
        raise ValueError(msg)
    layers = [module for module in model.modules() if isinstance(module, TensorAdapterLayer)]
    unknown = set(adapter_names) - {BASE} - {name for layer in layers for name in layer.scaling}
    if unknown:
        msg = f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}"
        raise ValueError(msg)
    repeated = [name for name in adapter_names for _ in range(beams)]
    encoder = _encoder(model) if beams > 1 else None
    encoding = set() if encoder is None else set(encoder.modules())
    handles = [
        module.register_forward_pre_hook(
            _passing(list(adapter_names) if module in encoding else repeated), with_kwargs=True
        )
        for module in model.modules()
        if isinstance(module, (TensorAdapterLayer, AuxiliaryTrainingWrapper))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _passing(adapter_names: list[str]) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return args, {**kwargs, "adapter_names": adapter_names}

    return hook


def _encoder(model: nn.Module) -> nn.Module | None:
    """The encoder of an encoder-decoder; since transformers 5 other models return themselves."""
    find = getattr(model, "get_encoder", None)
    encoder = None if find is None else find()
    return None if encoder is model else encoder

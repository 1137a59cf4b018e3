"""What an adapter file must be before a tensor of it is assigned, and what an adapter may be called.

PEFT 0.21 loads what fits and warns about the rest: a renamed key leaves a layer at its random start, NaN and integers
are copied.  Here a file is what its configuration says, tensor by tensor and bit by bit, or nothing is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from ttlib.errors import TTFileError
from ttlib_peft.compat import BaseTuner, BaseTunerLayer, NoMatchingPeftModuleError
from ttlib_peft.config import TensorAdapterConfig

LONGEST_NAME = 100
_START = (".initial", ".offset")
_PEFT_PREFIX = "base_model.model."


class AdapterFileError(TTFileError):
    """An adapter file that is damaged, or not of the configuration beside it."""


class CheckedLoading(BaseTuner):
    """The part of a tuner that looks at names and tensors before it takes them (hooks of PEFT 0.21)."""

    prefix: str

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter in, once its name is known to be safe."""
        try:
            check_adapter_name(adapter_name)
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except NoMatchingPeftModuleError as error:
            names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
            error.add_note(f"Linear modules of this {type(model).__name__} end in: {', '.join(sorted(names))}")
            raise

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, *args: Any, **kwargs: Any
    ) -> Any:
        state_dict = kwargs["state_dict"] if "state_dict" in kwargs else args[0]
        config.fingerprint = fingerprint(model, config, adapter_name, state_dict)
        return super()._get_adapter_state_dict(model, config, adapter_name, *args, **kwargs)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(
            model=model, config=config, adapter_name=adapter_name, state_dict=state_dict
        )
        check_state_dict(model, config, adapter_name, remapped, prefix=cls.prefix)
        return remapped


def check_adapter_name(name: object) -> str:
    """Return *name*, or raise ValueError unless it is good as the name of one folder inside another.

    >>> check_adapter_name("sentiment-v2")
    'sentiment-v2'

    `save_pretrained` makes a folder of it: an absolute path or ".." would be written to somewhere else.
    """
    if not isinstance(name, str):
        msg = f"the name of an adapter must be a string, got {name!r}"
        raise TypeError(msg)
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable() or set(name) & set("./\\:"):
        shown = name if len(name) <= LONGEST_NAME else f"{name[:20]}… of {len(name)} characters"
        msg = (
            f"{shown!r} cannot name an adapter, which becomes a folder when it is saved: use 1 to {LONGEST_NAME} "
            "printable characters without . / \\ and :"
        )
        raise ValueError(msg)
    return name


def check_state_dict(
    model: nn.Module, config: TensorAdapterConfig, adapter_name: str, state_dict: Mapping[str, Tensor], *, prefix: str
) -> None:
    """Raise AdapterFileError unless *state_dict* is the whole adapter that *config* describes, in finite numbers.

    Its keys are the model's, as PEFT's remapping makes them.  Everything under the method's own prefix must be there
    and nothing else; heads, biases and embeddings saved beside it must be finite where the model has them.
    """
    found = dict(state_dict)
    known = model.state_dict()
    if not any(key.startswith(_PEFT_PREFIX) for key in known):
        found = {key.removeprefix(_PEFT_PREFIX): tensor for key, tensor in found.items()}
    expected = adapter_tensors(model, adapter_name)
    if not any(key.endswith(_START) for key in found):
        # cores that were trained without a start are loaded without one (`TTLinear`); a file that lost its starts is
        # not what its fingerprint says
        expected = {key: tensor for key, tensor in expected.items() if not key.endswith(_START)}
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(
        key for key in found.keys() - known.keys() if any(part.startswith(prefix) for part in key.split("."))
    )
    if missing or extra:
        faults = [f"lacks {_some(missing)}"] if missing else []
        faults += [f"has {_some(extra)}, which the configuration does not make"] if extra else []
        msg = f"the file of adapter {adapter_name!r} {' and '.join(faults)}: it is damaged or of another configuration"
        raise AdapterFileError(msg)
    for key, tensor in found.items():
        if key in known:
            _check_tensor(key, tensor, known[key], exact=key in expected)
    _check_fingerprint(model, config, adapter_name, found)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _check_tensor(key: str, tensor: Tensor, wanted: Tensor, *, exact: bool) -> None:
    if exact and tensor.shape != wanted.shape:
        # The first words are those that users and tests of PEFT know from torch.
        msg = (
            f"size mismatch for {key}: the file has shape {tuple(tensor.shape)}, the configuration makes "
            f"{tuple(wanted.shape)}; load it with the configuration it was saved with"
        )
        raise AdapterFileError(msg)
    if tensor.is_floating_point() != wanted.is_floating_point() or tensor.is_complex():
        msg = f"{key} is of {tensor.dtype} in the file, expected {wanted.dtype}: save the adapter again"
        raise AdapterFileError(msg)
    if tensor.is_meta or not tensor.is_floating_point():
        return
    finite = torch.isfinite(tensor)
    if not finite.all():
        msg = (
            f"{key} has {int((~finite).sum())} of {tensor.numel()} entries NaN or infinite in the file: "
            "training has diverged, or the file is damaged"
        )
        raise AdapterFileError(msg)


def adapter_tensors(model: nn.Module, adapter_name: str) -> dict[str, Tensor]:
    """Return the parameters and buffers of one adapter by their names in the model."""
    return {
        f"{name}.{attribute}.{adapter_name}.{key}" if name else f"{attribute}.{adapter_name}.{key}": tensor
        for name, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
        for attribute in layer.adapter_layer_names
        if adapter_name in getattr(layer, attribute, {})
        for key, tensor in getattr(layer, attribute)[adapter_name].state_dict().items()
    }


def fingerprint(
    model: nn.Module, config: TensorAdapterConfig, adapter_name: str, state_dict: Mapping[str, Tensor]
) -> str | None:
    """Return the SHA-256 of an adapter's settings, tensors and modules_to_save; None where one has no numbers."""
    return _digest(config.settings(), _saved_tensors(model, adapter_name, state_dict))


def _digest(settings: dict[str, Any], tensors: Mapping[str, Tensor]) -> str | None:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for key, tensor in sorted(tensors.items()):
        if tensor.is_meta or type(tensor) not in (Tensor, nn.Parameter):
            return None
        digest.update(f"\n{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _saved_tensors(model: nn.Module, adapter_name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an adapter by names that hold in every model and under every name of the adapter."""
    names = {key: key.replace(f".{adapter_name}.", ".") for key in adapter_tensors(model, adapter_name)}
    for name, wrapper in model.named_modules():
        if isinstance(wrapper, AuxiliaryTrainingWrapper):
            held = wrapper.adapter_state_dict_load_map(adapter_name)
            names |= {f"{name}.{stored}": f"{name}.{saved}" for saved, stored in held.items()}
    return {saved.removeprefix(_PEFT_PREFIX): state_dict[key] for key, saved in names.items() if key in state_dict}


def _check_fingerprint(
    model: nn.Module, config: TensorAdapterConfig, adapter_name: str, state_dict: Mapping[str, Tensor]
) -> None:
    promised = config.take_promise()
    if promised is None:
        return
    wanted, settings = promised
    found = _digest(settings, _saved_tensors(model, adapter_name, state_dict))
    if found not in (None, wanted):
        msg = (
            f"adapter {adapter_name!r} is not what was saved: its fingerprint is {found}, adapter_config.json says "
            f"{wanted}.  The file is damaged, or either was changed by hand: in that case remove `fingerprint` there"
        )
        raise AdapterFileError(msg)

"""A compressed checkpoint in a torch model: its trains stay trains, everything else is loaded as it is."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import ttlib
from ttlib.checkpoint.archive import DENSE, Archive, CompressedWeight, check_file, read_archive
from ttlib.checkpoint.candidates import candidate_shape
from ttlib.errors import BackendError, TTFileError
from ttlib.tensor_train import TensorTrain
from ttlib_peft.compressed_layers import CompressedEmbedding, CompressedLinear

_log = logging.getLogger(__name__)

_Model = TypeVar("_Model", bound=nn.Module)
# A tensor of the model by all the keys that it has there: several where it is tied.
_Keys = tuple[str, ...]

_MOST_NAMED = 3
# Prefixes, those by which most keys agree.
_MOST_TRIED = 16


def load_compressed(
    model: _Model,
    folder: str | os.PathLike[str],
    *,
    key_prefix: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> _Model:
    """Load what `ttlib compress` wrote into a model, whose linear layers and embeddings become trains where it has one.

    >>> import tempfile, safetensors.torch, torch, ttlib_peft
    >>> from ttlib.checkpoint import LocalEngine, compress
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dense, small = f"{folder}/model.safetensors", f"{folder}/small"
    ...     safetensors.torch.save_file(model.state_dict(), dense)
    ...     archive = compress(dense, small, budget=0.6, engine=LocalEngine(workers=0))
    ...     model = ttlib_peft.load_compressed(model, small)
    >>> type(model[0]).__name__, model(torch.ones(2, 64)).shape
    ('CompressedLinear', torch.Size([2, 8]))

    Args:
        model: a model of the architecture that was compressed, of any numbers or none: built on the meta device, as
            under accelerate's `init_empty_weights()`, nothing dense is ever allocated for what is a train.  It is
            changed in place; where an error is raised it is as it was.
        folder: what `ttlib.checkpoint.compress` wrote.
        key_prefix: {prefix in the checkpoint: prefix in the model}, as {"": "bert."}, for a checkpoint whose keys are
            not the model's.  Default: what makes most keys agree.
        dtype: what all real numbers are cast to; default: cores and tensors have the dtypes that are stored.

    Returns the model.  Its cores are ordinary parameters, and train as frozen or as free as the weights did before.
    Tied weights stay tied.  A weight of another kind of module, or whose train has no boundary between rows and
    columns, is put together and loaded as a dense one, which the log says.

    Raises:
        FileNotFoundError: the folder is none of `compress`, or is not finished.
        TTFileError: a file in it is damaged, or it is of another model: the message names keys that are missing, that
            the model does not have, or whose shapes differ.
        BackendError: a dtype that is none of real numbers; or the model has buffers on the meta device that no
            checkpoint holds.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        msg = f"dtype must be one of torch's real dtypes such as torch.bfloat16, got {dtype!r}"
        raise BackendError(msg)
    files = _Files(Path(folder), read_archive(folder))
    shapes = files.checked_shapes()
    held = {key: tensor for key, tensor in model.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    chosen = _assign(model, held, shapes, match_keys(shapes, held, key_prefix))
    # all files are read before the model is touched
    changes = [_prepared(model, name, keys, held[keys[0]], files, dtype) for name, keys in chosen.items()]
    for change in sorted(changes, key=lambda change: isinstance(change, _Dense)):  # a new layer takes over its bias
        change.apply(model)
    return model


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of a compressed checkpoint."""

    folder: Path
    archive: Archive

    def checked_shapes(self) -> dict[str, tuple[int, ...]]:
        """Compare all files with the manifest and return the shape of each tensor of the checkpoint, in its order."""
        archive = self.archive
        shapes = {name: tuple(weight.shape) for name, weight in archive.weights.items()}
        for weight in archive.weights.values():
            check_file(self.folder / weight.file, weight.sha256)
        if archive.dense_sha256 is not None:
            check_file(self.folder / DENSE, archive.dense_sha256)
            with self._dense() as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        lost = [name for name in archive.order if name not in shapes]
        if lost:
            msg = f"the compressed checkpoint {os.fspath(self.folder)!r} has no {_some(lost)}: compress it again"
            raise TTFileError(msg)
        return {name: shapes[name] for name in archive.order}

    def dense(self, name: str) -> Tensor:
        """Return a tensor that is no train, bit for bit."""
        with self._dense() as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def train(self, weight: CompressedWeight) -> TensorTrain:
        """Return the train of a weight, on torch in its stored dtype."""
        path = self.folder / weight.file
        train = ttlib.load(path, like=torch.zeros(()))
        if not isinstance(train, TensorTrain) or math.prod(train.shape) != math.prod(weight.shape):
            msg = f"{os.fspath(path)!r} holds {train!r}, the manifest has a weight of {weight.shape}: compress again"
            raise TTFileError(msg)
        return train

    def _dense(self) -> safe_open:
        try:
            return safe_open(self.folder / DENSE, framework="pt")
        except (OSError, SafetensorError) as error:
            msg = f"cannot read {os.fspath(self.folder / DENSE)!r}: {error}; compress the checkpoint again"
            raise TTFileError(msg) from error


@dataclass(frozen=True, slots=True)
class _Dense:
    """Another tensor under all its keys."""

    keys: _Keys
    tensor: Tensor
    requires_grad: bool
    is_parameter: bool

    def apply(self, model: nn.Module) -> None:
        tensor = nn.Parameter(self.tensor, requires_grad=self.requires_grad) if self.is_parameter else self.tensor
        for key in self.keys:
            path, _, attribute = key.rpartition(".")
            setattr(model.get_submodule(path), attribute, tensor)


@dataclass(frozen=True, slots=True)
class _Layers:
    """Layers around one train, in the place of those whose weight it is."""

    keys: _Keys
    flat: nn.Parameter
    train: TensorTrain
    split: int

    def apply(self, model: nn.Module) -> None:
        made: dict[nn.Module, nn.Module] = {}  # a module may stand in several places
        for key in self.keys:
            path = key.rpartition(".")[0]
            former = model.get_submodule(path)
            if isinstance(former, (CompressedLinear, CompressedEmbedding)):
                continue  # a parent stands in several places
            if former not in made:
                made[former] = self._layer(former).train(former.training)
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, made[former])

    def _layer(self, former: nn.Module) -> nn.Module:
        shape, ranks = self.train.shape, self.train.ranks
        if isinstance(former, nn.Embedding):
            return CompressedEmbedding(
                self.flat, shape=shape, ranks=ranks, split=self.split, padding_idx=former.padding_idx
            )
        bias = former.bias if isinstance(former, nn.Linear) else None
        return CompressedLinear(self.flat, shape=shape, ranks=ranks, split=self.split, bias=bias)


def _prepared(
    model: nn.Module, name: str, keys: _Keys, former: Tensor, files: _Files, dtype: torch.dtype | None
) -> _Dense | _Layers:
    """Read one tensor of the checkpoint and say what becomes of it in the model."""
    device = torch.device("cpu") if former.is_meta else former.device
    weight = files.archive.weights.get(name)
    if weight is None:
        tensor = files.dense(name)
    else:
        train = files.train(weight)
        rows, cols = weight.shape
        split = candidate_shape(train.shape, rows=rows, cols=cols).split
        reason = _why_dense(model, keys, train, split)
        if reason is None and split is not None:
            numbers = torch.cat([core.reshape(-1) for core in train.cores]).to(device=device, dtype=dtype)
            return _Layers(keys, nn.Parameter(numbers, requires_grad=former.requires_grad), train, split)
        _log.warning("%s is loaded as a dense weight: %s", name, reason)
        tensor = train.to_matrix(rows, cols)
    cast = dtype if tensor.is_floating_point() else None
    return _Dense(keys, tensor.to(device=device, dtype=cast), former.requires_grad, isinstance(former, nn.Parameter))


def _why_dense(model: nn.Module, keys: _Keys, train: TensorTrain, split: int | None) -> str | None:
    """Say why a weight cannot stay a train in this model; None where it can."""
    if split is None:
        return f"the modes {train.shape} of its train have no boundary between its rows and its columns"
    for key in keys:
        path, _, attribute = key.rpartition(".")
        module = model.get_submodule(path)
        # subclasses do something else with their weight: scale it, quantise it, hand it to another function
        if attribute != "weight" or type(module) not in (nn.Linear, nn.Embedding):
            return f"{key} belongs to a {type(module).__name__}, which is no nn.Linear or nn.Embedding"
        if not path:
            return "the model is this one layer, which has no place to be replaced in"
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return f"{path} has hooks, which another layer would not have: remove them first"
        if isinstance(module, nn.Embedding) and (
            module.max_norm is not None or module.scale_grad_by_freq or module.sparse
        ):
            return f"{path} has max_norm, scale_grad_by_freq or sparse set, which need the rows themselves"
    return None


def _assign(
    model: nn.Module, held: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], keys: Mapping[str, str]
) -> dict[str, _Keys]:
    """Return, by name in the checkpoint, the keys of the tensor of the model that it is for; all are there, once."""
    own = {name for name, _ in model.named_buffers(remove_duplicate=False)} - held.keys()
    tied: dict[int, list[str]] = {}
    for key, tensor in held.items():
        tied.setdefault(id(tensor), []).append(key)
    first: dict[int, str] = {}
    for name, key in keys.items():
        if key in held and first.setdefault(id(held[key]), name) != name:
            _log.info("%s is tied to %s in the model, which takes the latter", name, first[id(held[key])])
    missing = [group[0] for tensor, group in tied.items() if tensor not in first]
    unexpected = [name for name, key in keys.items() if key not in held and key not in own]  # own: made by the model
    if missing or unexpected:
        faults = [f"lacks {_some(missing)} of the model"] if missing else []
        faults += [f"has {_some(unexpected)}, which the model does not have"] if unexpected else []
        msg = (
            f"the checkpoint {' and '.join(faults)}: build the model from the configuration beside it, or say how its "
            "keys begin as key_prefix={'in the checkpoint': 'in the model'}"
        )
        raise TTFileError(msg)
    for name, key in keys.items():
        if key in held and shapes[name] != tuple(held[key].shape):
            msg = (
                f"size mismatch for {key}: the checkpoint has shape {shapes[name]}, the model "
                f"{tuple(held[key].shape)}; build the model from the configuration beside the checkpoint"
            )
            raise TTFileError(msg)
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta and name in own]
    if empty:
        msg = (
            f"{_some(empty)} of the model have no numbers and are in no checkpoint: build it under accelerate's "
            "init_empty_weights(), which leaves buffers alone, instead of torch.device('meta')"
        )
        raise BackendError(msg)
    return {name: tuple(tied[tensor]) for tensor, name in first.items()}


def match_keys(names: Collection[str], known: Collection[str], prefixes: Mapping[str, str] | None) -> dict[str, str]:
    """Return the key in the model of each name in the checkpoint, or the name itself where the model has none.

    >>> match_keys(["layer.0.weight", "head.bias"], ["bert.layer.0.weight", "head.bias"], None)
    {'layer.0.weight': 'bert.layer.0.weight', 'head.bias': 'head.bias'}

    Args:
        names: in the checkpoint.
        known: the keys of the model.
        prefixes: {prefix in the checkpoint: prefix in the model}, the longest that fits is taken; None: the one that
            makes most keys agree.

    Raises TTFileError where several prefixes do so, none does, or two names become one key.
    """
    if prefixes is None:
        prefixes = _find_prefix(names, known)
    keys: dict[str, str] = {}
    for name in names:
        renamed = (
            new + name.removeprefix(old)
            for old, new in sorted(prefixes.items(), key=lambda pair: len(pair[0]), reverse=True)
            if name.startswith(old)
        )
        keys[name] = next((key for key in renamed if key in known), name)
    for key, count in Counter(keys.values()).items():
        if count > 1:
            both = [name for name in names if keys[name] == key]
            msg = f"{' and '.join(both)} of the checkpoint both become {key}: give key_prefix so that each is one key"
            raise TTFileError(msg)
    return keys


def _find_prefix(names: Collection[str], known: Collection[str]) -> dict[str, str]:
    """Return the prefix to put before names, or to take away, after which most are keys of the model."""
    named, keys = {*names}, {*known}
    cuts = Counter(("", prefix) for key in keys for prefix, rest in _cuts(key) if rest in named)
    cuts.update((prefix, "") for name in named for prefix, rest in _cuts(name) if rest in keys)

    def agreeing(old: str, new: str) -> int:
        return sum(name in keys or (name.startswith(old) and new + name.removeprefix(old) in keys) for name in named)

    scores = {pair: agreeing(*pair) for pair, _ in cuts.most_common(_MOST_TRIED)} | {("", ""): len(named & keys)}
    most = max(scores.values())
    best = [pair for pair, score in scores.items() if score == most]
    if most and (len(best) == 1 or ("", "") in best):
        return {} if ("", "") in best else dict(best)
    if most == 0:
        msg = (
            f"no key of the checkpoint is one of the model: it has {_some(sorted(named))}, the model "
            f"{_some(sorted(keys))}; build the model from the configuration beside the checkpoint, or give key_prefix"
        )
    else:
        options = " or ".join(f"key_prefix={{{old!r}: {new!r}}}" for old, new in sorted(best)[:_MOST_NAMED])
        old, new = min(best)
        example = min(name for name in named if name.startswith(old) and new + name.removeprefix(old) in keys)
        msg = f"the keys of the checkpoint, such as {example}, fit the model in {len(best)} ways: give {options}"
    raise TTFileError(msg)


def _cuts(key: str) -> Iterator[tuple[str, str]]:
    """Yield the prefix and the rest at each dot of a key."""
    for position, letter in enumerate(key):
        if letter == ".":
            yield key[: position + 1], key[position + 1 :]


def _some(names: Iterable[str]) -> str:
    found: Sequence[str] = list(names)
    more = len(found) - _MOST_NAMED
    return ", ".join(found[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")

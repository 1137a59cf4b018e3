"""What the configurations of all methods share; everything that can be wrong is refused here, before any allocation."""

from __future__ import annotations

import copy
import enum
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from peft.config import PeftConfig
from peft.utils import CONFIG_NAME
from peft.utils.other import get_pattern_key

from ttlib._files import replacing
from ttlib.errors import RankError, ShapeError
from ttlib.ranks import expand_ranks
from ttlib.shapes import check_integer, check_shape
from ttlib_peft.model_card import describe_in_card
from ttlib_peft.patterns import check_pattern

InitWeights = Literal["residual", "zero", "gaussian", "paper-mean", "spectral"]
Bias = Literal["none", "all", "loretta_only"]

# Rank of every bond, or the inner ranks one by one.
TensorRank = int | list[int]
# No r, bottleneck, rank or mode of a real model comes near; what is above would be a lot of memory or an accident.
LARGEST_SIZE = 1 << 16
LARGEST_MODE = 1 << 24

# Settings that do not say what the adapter calculates: bookkeeping, not under the fingerprint.
_BOOKKEEPING = {
    "auto_mapping", "base_model_name_or_path", "fingerprint", "group_factors", "inference_mode", "peft_version",
    "requires", "revision", "task_type",
}  # fmt: skip

# Shapes by matrix size, as in the paper's Table 10: {"768x64": [8, 8, 12, 8, 8], …}.
ShapesBySize = dict[str, list[int]]


class TensorPeftType(enum.StrEnum):
    """The names under which PEFT knows these methods; strings, as PEFT's own PeftType are."""

    LORETTA_REP = "LORETTA_REP"
    LORETTA_ADP = "LORETTA_ADP"
    TT_LORA = "TT_LORA"
    META_TT = "META_TT"


@dataclass
class TensorAdapterConfig(PeftConfig):
    """What all methods share.  Not used on its own.

    Args:
        tensor_rank: rank of every bond, clipped to what the shape can carry; a list gives the inner ranks as they
            are.  The bond between rows and columns bounds the rank of the matrix: with tensor_rank=5 an update
            of r=8 has rank 5.
        tensor_shape: None for automatic (the fewest parameters; `ttlib.search_shapes`), one list of modes for
            all matrices, or a mapping from "ROWSxCOLS" to modes.  What was chosen is written back here, so that a
            saved adapter never depends on the search.
        tensor_rank_pattern: other ranks for some modules, {"layer.3.query": 8, …}: keys as in PEFT's rank_pattern,
            values an int, a list, or either for each matrix by its name, {"A": 8, "B": [5, 3, 2]}.
        init_weights: "residual" (the random start is subtracted, exactly), "zero" (last core zero, as LoRA's B),
            "gaussian" (random; changes the model's output), "paper-mean" (gaussian minus the mean of its
            reconstruction, the paper's literal text; changes the output too), "spectral" (as "residual", from the
            leading singular directions of the frozen weight in place of random ones).  True is the measured default,
            False is "gaussian".
        seed: of the random start; None draws one from torch's generator.  Recorded here either way.
        train_norms: train all LayerNorm/RMSNorm modules too, as the paper does; they are saved with the adapter.
        tensorize_modules: linear modules, by the end of their names, that are trained as tensor trains with a bias: a
            pooler, the first layer of a classifier.  "gaussian" and "paper-mean" put the train in the place of the
            dense weight, as the paper does, the other starts beside it.
        group_factors: contract the factors of all layers of one shape together in training, a few products a step
            in place of a few a layer.  The results are the same to rounding.
        target_modules, exclude_modules, layers_to_transform, layers_pattern, modules_to_save, bias: as for every
            PEFT method.
    """

    # Settings that a pattern overrides under another name.
    PATTERNS: ClassVar[dict[str, str]] = {}

    tensor_rank: TensorRank = field(default=5, metadata={"help": "Rank of the bonds of each tensor train."})
    tensor_shape: list[int] | ShapesBySize | None = field(
        default=None, metadata={"help": "Modes of the tensor trains; None chooses them."}
    )
    tensor_rank_pattern: dict[str, TensorRank | dict[str, TensorRank]] = field(
        default_factory=dict, metadata={"help": "Other ranks of bonds, by module name."}
    )
    init_weights: bool | InitWeights = field(default=True, metadata={"help": "How the cores start."})
    seed: int | None = field(default=None, metadata={"help": "Seed of the random start."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of the adapter."})
    train_norms: bool = field(default=False, metadata={"help": "Train the normalisation layers too."})
    tensorize_modules: list[str] | None = field(
        default=None, metadata={"help": "Linear modules to train as tensor trains, by the end of their names."}
    )
    group_factors: bool = field(default=True, metadata={"help": "Contract all layers of one shape together."})
    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules to adapt."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules to leave alone."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Layer indices to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained and saved whole."})
    bias: Bias = field(default="none", metadata={"help": "Which biases of the base model to train."})
    fingerprint: str | None = field(
        default=None,
        metadata={"help": "SHA-256 of the settings and of all that was saved; checked when the adapter is loaded."},
    )
    requires: str = field(
        default="import ttlib_peft",
        metadata={"help": "A note for readers of adapter_config.json: run this before loading the adapter."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_modules()
        # JSON and users give lists, PEFT matches against sets
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)  # type: ignore[assignment]
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            msg = "layers_to_transform cannot be combined with a regular expression in target_modules; use a list"
            raise ValueError(msg)
        if self.layers_pattern and self.layers_to_transform is None:
            msg = "layers_pattern needs layers_to_transform, which is None"
            raise ValueError(msg)
        self.init_weights = _init_scheme(self.init_weights)
        self.dropout = number(self.dropout, "dropout", low=0.0, below=1.0)
        one_of(self.bias, Bias, "bias")
        for name in ("group_factors", "train_norms", "inference_mode"):
            if not isinstance(getattr(self, name), bool):
                msg = f"{name} must be True or False, got {getattr(self, name)!r}"
                raise TypeError(msg)
        if self.seed is not None:
            check_integer(self.seed, name="seed", minimum=0)
        self.tensor_rank = _tensor_rank(self.tensor_rank)
        self.tensor_rank_pattern = {
            name: {matrix: _tensor_rank(own) for matrix, own in rank.items()}
            if isinstance(rank, Mapping)
            else _tensor_rank(rank)
            for name, rank in self.tensor_rank_pattern.items()
        }
        self._check_tensor_shape()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Self:
        """Read a configuration as PEFT does, and remember what it promises of the weights beside it."""
        config: Self = super().from_pretrained(*args, **kwargs)  # of the class that the file names, not always ours
        if isinstance(config, TensorAdapterConfig) and config.fingerprint is not None:
            config._promise = (config.fingerprint, config.settings())
        return config

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write adapter_config.json, whole or not at all, and say in the model card how to load the adapter."""
        folder = Path(save_directory)
        with replacing(folder / CONFIG_NAME) as temporary, tempfile.TemporaryDirectory() as scratch:
            super().save_pretrained(scratch, **kwargs)
            temporary.write_bytes(Path(scratch, CONFIG_NAME).read_bytes())
        describe_in_card(folder, self.to_dict())

    def take_promise(self) -> tuple[str, dict[str, Any]] | None:
        """Return the fingerprint and the settings of the file this was read from, once; later weights are others."""
        promise: tuple[str, dict[str, Any]] | None = self.__dict__.pop("_promise", None)
        return promise

    def settings(self) -> dict[str, Any]:
        """Return what says what the adapter calculates, in an order that a file keeps."""
        return {
            name: sorted(value) if isinstance(value, (set, frozenset)) else copy.deepcopy(value)
            for name, value in self.to_dict().items()
            if name not in _BOOKKEEPING
        }

    def for_module(self, name: str) -> Self:
        """Return the configuration of one module: *_pattern entries that match its name in place of the defaults."""
        settled = {
            setting.removesuffix("_pattern"): value
            for setting, pattern in vars(self).items()
            if setting.endswith("_pattern") and isinstance(pattern, Mapping) and pattern
            for value in [pattern.get(get_pattern_key(list(pattern), name))]
            if value is not None
        }
        if not settled:
            return self
        own = copy.copy(self)  # checked already, entry by entry
        for setting, value in settled.items():
            setattr(own, self.PATTERNS.get(setting, setting), value)
        return own

    def rank_of(self, matrix: str) -> TensorRank:
        """Return the tensor rank of one matrix of a module by the matrix's name, on what `for_module` returned."""
        ranks: Any = self.tensor_rank
        if not isinstance(ranks, Mapping):
            return ranks
        if matrix not in ranks:
            msg = f"tensor_rank_pattern gives ranks for {', '.join(map(repr, ranks))} but not for {matrix!r}; add it"
            raise RankError(msg)
        return ranks[matrix]

    def _check_tensor_shape(self) -> None:
        if isinstance(self.tensor_shape, Mapping):
            for matrix, modes in self.tensor_shape.items():
                rows, cols = parse_size(matrix)
                check_shape(modes, size=rows * cols)
            self.tensor_shape = {matrix: list(modes) for matrix, modes in self.tensor_shape.items()}
        elif self.tensor_shape is not None:
            self.tensor_shape = [
                size(mode, "mode of tensor_shape", largest=LARGEST_MODE) for mode in check_shape(self.tensor_shape)
            ]

    def _check_modules(self) -> None:
        for name in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save", "tensorize_modules"):
            value = getattr(self, name)
            if isinstance(value, str) and name in ("modules_to_save", "tensorize_modules"):
                msg = f"{name} must be a list of names, got the string {value!r}: write [{value!r}]"
                raise TypeError(msg)
            if isinstance(value, str):
                check_pattern(value, name)
            elif value is not None:
                names(value, name)
        for name in ("layers_pattern", "modules_to_save"):  # PEFT reads their entries as regular expressions
            for pattern in getattr(self, name) or ():
                check_pattern(pattern, name)
        layers = self.layers_to_transform
        for layer in () if layers is None else layers if isinstance(layers, (list, tuple)) else (layers,):
            check_integer(layer, name="an index in layers_to_transform", minimum=0)
        self._check_pattern_keys()

    def _check_pattern_keys(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_pattern") and name != "layers_pattern":
                if not isinstance(value, Mapping):
                    msg = f"{name} must be a mapping from module names to values, got {value!r}"
                    raise TypeError(msg)
                for pattern in value:
                    check_pattern(pattern, f"a key of {name}")


def _tensor_rank(rank: Any) -> TensorRank:
    if isinstance(rank, Sequence) and not isinstance(rank, str):
        if not rank:
            msg = "tensor_rank must be an int or a list of the inner ranks, got an empty list"
            raise RankError(msg)
        return [_tensor_rank_of_bond(own) for own in rank]
    return _tensor_rank_of_bond(rank)


def _tensor_rank_of_bond(rank: Any) -> int:
    bond = expand_ranks((2, 2), rank)[1]
    if bond > LARGEST_SIZE:
        msg = f"tensor_rank must be at most {LARGEST_SIZE}, got {_shown(bond)}"
        raise RankError(msg)
    return bond


def size(value: object, name: str, *, largest: int = LARGEST_SIZE) -> int:
    """Return an integer from 1 to *largest*, or raise ShapeError."""
    number = check_integer(value, name=name)
    if number > largest:
        msg = f"{name} must be at most {largest}, got {_shown(number)}"
        raise ShapeError(msg)
    return number


def _shown(value: int) -> str:
    return str(value) if value < 10**30 else f"an integer of {value.bit_length()} bits"


def names(value: object, name: str) -> None:
    """Raise TypeError unless *value* is a collection of names that are not empty."""
    if not isinstance(value, (list, tuple, set, frozenset)):
        msg = f"{name} must be a list of names, got {value!r}"
        raise TypeError(msg)
    for entry in value:
        if not isinstance(entry, str) or not entry:
            msg = f"{name} must hold names of modules, got {entry!r} in it"
            raise TypeError(msg)


def parse_size(size: str) -> tuple[int, int]:
    """Return (rows, cols) from "ROWSxCOLS", or raise ShapeError."""
    rows, cross, cols = str(size).partition("x")
    if not (cross and rows.isdecimal() and cols.isdecimal() and int(rows) and int(cols)):
        msg = f'keys of tensor_shape are matrix sizes like "768x64", got {size!r}'
        raise ShapeError(msg)
    return int(rows), int(cols)


def _init_scheme(value: object) -> InitWeights:
    # The default was chosen by measurement: docs/initialisation.md
    if value is True:
        return "residual"
    if value is False:
        return "gaussian"
    one_of(value, InitWeights, "init_weights")
    return value  # type: ignore[return-value]


def one_of(value: object, options: object, name: str) -> None:
    """Raise ValueError if *value* is not among the values of a Literal."""
    if value not in get_args(options):
        msg = f"{name} must be one of {', '.join(map(repr, get_args(options)))}, got {value!r}"
        raise ValueError(msg)


def number(value: object, name: str, *, low: float = -math.inf, below: float = math.inf) -> float:
    """Return a finite number in [low, below) as a float, or raise ValueError."""
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and low <= value < below
    ):
        return float(value)
    wanted = "a finite number" if low == -math.inf else f"a number >= {low:g} and < {below:g}"
    msg = f"{name} must be {wanted}, got {value!r}"
    raise ValueError(msg)

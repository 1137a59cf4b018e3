"""Configurations of the LoRETTA methods; everything that can be wrong is refused here, before any allocation."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from peft.config import PeftConfig

from ttlib.errors import RankError, ShapeError
from ttlib.ranks import expand_ranks
from ttlib.shapes import check_integer, check_shape

InitWeights = Literal["residual", "zero", "gaussian", "paper-mean"]
NonLinearity = Literal["relu", "gelu", "silu", "tanh", "identity"]
Placement = Literal["auto", "output", "input"]
Bias = Literal["none", "all", "loretta_only"]

# Shapes by matrix size, as in the paper's Table 10: {"768x64": [8, 8, 12, 8, 8], …}.
ShapesBySize = dict[str, list[int]]


class LorettaPeftType(enum.StrEnum):
    """The names under which PEFT knows these methods; strings, as PEFT's own PeftType are."""

    LORETTA_REP = "LORETTA_REP"
    LORETTA_ADP = "LORETTA_ADP"


@dataclass
class LorettaConfig(PeftConfig):
    """What both methods share.  Not used on its own.

    Args:
        tensor_rank: rank of every bond, clipped to what the shape can carry; a list gives the inner ranks as they
            are.  The bond between rows and columns bounds the rank of the matrix: with tensor_rank=5 an update
            of r=8 has rank 5.
        tensor_shape: None for automatic (the fewest parameters; `ttlib.search_shapes`), one list of modes for
            all matrices, or a mapping from "ROWSxCOLS" to modes.  What was chosen is written back here, so that a
            saved adapter never depends on the search.
        init_weights: "residual" (the random start is subtracted, exactly), "zero" (last core zero, as LoRA's B),
            "gaussian" (random; changes the model's output), "paper-mean" (gaussian minus the mean of its
            reconstruction, the paper's literal text; changes the output too).  True is the measured default,
            False is "gaussian".
        seed: of the random start; None draws one from torch's generator.  Recorded here either way.
        train_norms: train all LayerNorm/RMSNorm modules too, as the paper does; they are saved with the adapter.
        group_factors: contract the factors of all layers of one shape together in training, a few products a step
            in place of a few a layer.  The results are the same to rounding.
        target_modules, exclude_modules, layers_to_transform, layers_pattern, modules_to_save, bias: as for every
            PEFT method.
    """

    tensor_rank: int | list[int] = field(default=5, metadata={"help": "Rank of the bonds of each tensor train."})
    tensor_shape: list[int] | ShapesBySize | None = field(
        default=None, metadata={"help": "Modes of the tensor trains; None chooses them."}
    )
    init_weights: bool | InitWeights = field(default=True, metadata={"help": "How the cores start."})
    seed: int | None = field(default=None, metadata={"help": "Seed of the random start."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the input of the adapter."})
    train_norms: bool = field(default=False, metadata={"help": "Train the normalisation layers too."})
    group_factors: bool = field(default=True, metadata={"help": "Contract all layers of one shape together."})
    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules to adapt."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules to leave alone."})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Layer indices to adapt."})
    layers_pattern: list[str] | str | None = field(default=None, metadata={"help": "Name of the list of layers."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained and saved whole."})
    bias: Bias = field(default="none", metadata={"help": "Which biases of the base model to train."})
    requires: str = field(
        default="import ttlib_peft",
        metadata={"help": "A note for readers of adapter_config.json: run this before loading the adapter."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
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
        self.dropout = _number(self.dropout, "dropout", low=0.0, below=1.0)
        _one_of(self.bias, Bias, "bias")
        if not isinstance(self.group_factors, bool):
            msg = f"group_factors must be True or False, got {self.group_factors!r}"
            raise TypeError(msg)
        if self.seed is not None:
            check_integer(self.seed, name="seed", minimum=0)
        self._check_tensor_rank()
        self._check_tensor_shape()

    def _check_tensor_rank(self) -> None:
        if isinstance(self.tensor_rank, Sequence) and not isinstance(self.tensor_rank, str):
            inner = [expand_ranks((2, 2), rank)[1] for rank in self.tensor_rank]
            if not inner:
                msg = "tensor_rank must be an int or a list of the inner ranks, got an empty list"
                raise RankError(msg)
            self.tensor_rank = inner
        else:
            self.tensor_rank = expand_ranks((2, 2), self.tensor_rank)[1]

    def _check_tensor_shape(self) -> None:
        if isinstance(self.tensor_shape, Mapping):
            for size, modes in self.tensor_shape.items():
                rows, cols = parse_size(size)
                check_shape(modes, size=rows * cols)
            self.tensor_shape = {size: list(modes) for size, modes in self.tensor_shape.items()}
        elif self.tensor_shape is not None:
            self.tensor_shape = list(check_shape(self.tensor_shape))


@dataclass
class LorettaRepConfig(LorettaConfig):
    """LoRETTA_rep: W' = W + alpha/r * A B with A (in, r) and B (r, out) tensor trains (Yang et al. 2024, 3.3).

    >>> config = LorettaRepConfig(r=8, tensor_rank=5, alpha=16, target_modules=["query", "value"])
    >>> config.init_weights
    'residual'

    Args:
        r: the inner size of A B, as in LoRA.
        alpha: the update is scaled by alpha / r.

    For the rest see `LorettaConfig`.  Raises ValueError (also as RankError, ShapeError) for values that cannot be.
    """

    r: int = field(default=8, metadata={"help": "Inner size of the update A B."})
    alpha: float = field(default=16, metadata={"help": "The update is scaled by alpha / r."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = LorettaPeftType.LORETTA_REP
        self.r = check_integer(self.r, name="r")
        _number(self.alpha, "alpha")


@dataclass
class LorettaAdpConfig(LorettaConfig):
    """LoRETTA_adp: h' = h + scaling * up(act(down(h))) with tensor-train layers (Yang et al. 2024, 3.2).

    >>> LorettaAdpConfig(bottleneck=64, tensor_rank=5, non_linearity="relu").placement
    'auto'

    Args:
        bottleneck: size between the two layers.
        non_linearity: "relu", "gelu", "silu", "tanh" or "identity".
        scaling: factor on the adapter's output.
        placement: "output" adapts what the target module returns, "input" what it is given; "auto" is "output".

    For the rest see `LorettaConfig`.  Raises ValueError (also as RankError, ShapeError) for values that cannot be.
    """

    bottleneck: int = field(default=64, metadata={"help": "Size between the two tensor-train layers."})
    non_linearity: NonLinearity = field(default="relu", metadata={"help": "Activation in between."})
    scaling: float = field(default=1.0, metadata={"help": "Factor on the adapter's output."})
    placement: Placement = field(default="auto", metadata={"help": "Before or after the target module."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = LorettaPeftType.LORETTA_ADP
        self.bottleneck = check_integer(self.bottleneck, name="bottleneck")
        _one_of(self.non_linearity, NonLinearity, "non_linearity")
        _one_of(self.placement, Placement, "placement")
        _number(self.scaling, "scaling")


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
    _one_of(value, InitWeights, "init_weights")
    return value  # type: ignore[return-value]


def _one_of(value: object, options: object, name: str) -> None:
    if value not in get_args(options):
        msg = f"{name} must be one of {', '.join(map(repr, get_args(options)))}, got {value!r}"
        raise ValueError(msg)


def _number(value: object, name: str, *, low: float = -math.inf, below: float = math.inf) -> float:
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

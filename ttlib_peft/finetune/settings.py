"""What one fine-tuning run is asked to do, checked before anything expensive is imported or loaded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ttlib_peft.config import InitWeights

Method = Literal["loretta-rep", "loretta-adp", "lora", "full", "bitfit", "head"]
DType = Literal["float32", "bfloat16"]

METHODS: tuple[Method, ...] = get_args(Method)
DTYPES: tuple[DType, ...] = get_args(DType)
INIT_WEIGHTS: tuple[InitWeights, ...] = get_args(InitWeights)

DEFAULT_MODEL = "minilm-l6"
DEFAULT_DATA = "bbc-news"
DEFAULT_EPOCHS = 3.0
DEFAULT_EVAL_FRACTION = 0.2

# Chosen on the training articles of the demo alone, all four methods of it on one grid: docs/finetune.md. `full` and
# `bitfit` were not part of it.
DEFAULT_LEARNING_RATES: dict[Method, float] = {
    "loretta-rep": 1e-2,
    "loretta-adp": 1e-2,
    "lora": 5e-3,
    "full": 1e-4,
    "bitfit": 1e-3,
    "head": 1e-1,
}

# How a run is started, not what it computes: two runs that differ here only give the same weights.
_NOT_RECORDED = frozenset({"output", "resume", "overwrite"})


class FinetuneError(ValueError):
    """A request that cannot be carried out: the message holds the fact, the value and the remedy."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Everything a run depends on; an instance that exists has passed all the checks that cost nothing.

    `output` is the folder to write; `learning_rate=None` takes each method's own default, `epochs` and
    `max_steps` exclude each other (neither: 3 epochs), and `eval_split` and `eval_fraction` do too (neither:
    the data's own validation or test split, else a fifth of the training rows).
    """

    output: Path
    methods: tuple[Method, ...] = ("loretta-rep",)
    model: str = DEFAULT_MODEL
    data: str = DEFAULT_DATA
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    train_split: str = "train"
    eval_split: str | None = None
    eval_fraction: float | None = None
    max_length: int = 128
    epochs: float | None = None
    max_steps: int | None = None
    batch_size: int = 16
    learning_rate: float | None = None
    seed: int = 0
    rank: int = 8
    tensor_rank: int = 5
    bottleneck: int = 64
    alpha: int = 16
    init_weights: bool | InitWeights = True
    train_norms: bool = False
    target_modules: tuple[str, ...] | None = None
    eval_steps: int | None = None
    dtype: DType = "float32"
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        self._check_methods()
        self._check_names()
        self._check_numbers()
        self._check_exclusive()
        self._check_output()

    @property
    def total_epochs(self) -> float:
        """The passes over the training rows when `max_steps` is not given."""
        return DEFAULT_EPOCHS if self.epochs is None else self.epochs

    def learning_rate_of(self, method: Method) -> float:
        """The learning rate `method` trains with: the one asked for, else the method's default."""
        return DEFAULT_LEARNING_RATES[method] if self.learning_rate is None else self.learning_rate

    def record(self) -> dict[str, Any]:
        """The settings that decide the result, as plain JSON values: what `run.json` keeps."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_RECORDED}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def differences(self, recorded: dict[str, Any]) -> list[str]:
        """Which settings differ from a `record` kept earlier, each as `name: then -> now`."""
        now = self.record()
        names = [field.name for field in fields(self) if field.name in now]
        missing = "(not recorded)"
        return [
            f"{name}: {recorded.get(name, missing)!r} -> {now[name]!r}"
            for name in names
            if recorded.get(name, missing) != now[name]
        ]

    def _check_methods(self) -> None:
        if not self.methods:
            msg = f"no method given; choose from {', '.join(METHODS)}"
            raise FinetuneError(msg)
        for method in self.methods:
            if method not in METHODS:
                msg = f"unknown method {method!r}; the methods are {', '.join(METHODS)}"
                raise FinetuneError(msg)
        doubled = sorted({method for method in self.methods if self.methods.count(method) > 1})
        if doubled:
            msg = f"method {doubled[0]!r} is given more than once; name every method once"
            raise FinetuneError(msg)

    def _check_names(self) -> None:
        if self.dtype not in DTYPES:
            msg = f"unknown dtype {self.dtype!r}; the dtypes are {', '.join(DTYPES)}"
            raise FinetuneError(msg)
        if not isinstance(self.init_weights, bool) and self.init_weights not in INIT_WEIGHTS:
            msg = f"unknown init_weights {self.init_weights!r}; it is True, False or one of {', '.join(INIT_WEIGHTS)}"
            raise FinetuneError(msg)
        if self.target_modules is not None and not self.target_modules:
            msg = "target_modules is empty; name at least one module or leave it out"
            raise FinetuneError(msg)
        columns = [self.text_column, self.label_column]
        columns += [] if self.text_pair_column is None else [self.text_pair_column]
        if len(set(columns)) < len(columns):
            msg = f"the text, text pair and label columns must be different columns, got {', '.join(columns)}"
            raise FinetuneError(msg)

    def _check_numbers(self) -> None:
        for name in ("max_length", "batch_size", "rank", "tensor_rank", "bottleneck", "alpha"):
            _require_whole(name, getattr(self, name), at_least=1)
        for name in ("max_steps", "eval_steps"):
            if getattr(self, name) is not None:
                _require_whole(name, getattr(self, name), at_least=1)
        _require_whole("seed", self.seed, at_least=0)
        for name in ("epochs", "learning_rate"):
            if getattr(self, name) is not None:
                _require_positive(name, getattr(self, name))
        fraction = self.eval_fraction
        if fraction is not None and not 0 < fraction < 1:
            msg = f"eval_fraction must lie between 0 and 1 (both excluded), got {fraction}"
            raise FinetuneError(msg)

    def _check_exclusive(self) -> None:
        for one, other in (("epochs", "max_steps"), ("eval_split", "eval_fraction"), ("resume", "overwrite")):
            if getattr(self, one) not in (None, False) and getattr(self, other) not in (None, False):
                msg = f"{one} and {other} exclude each other; give one of them"
                raise FinetuneError(msg)
        if self.eval_split == self.train_split:
            msg = (
                f"train_split and eval_split are both {self.eval_split!r}; an accuracy on the training rows"
                " says nothing: choose another eval_split or give eval_fraction"
            )
            raise FinetuneError(msg)

    def _check_output(self) -> None:
        if self.output.exists() and not self.output.is_dir():
            msg = f"output {self.output} is a file; give a folder"
            raise FinetuneError(msg)
        if self.resume or self.overwrite or not self.output.is_dir():
            return
        if any(self.output.iterdir()):
            msg = (
                f"output folder {self.output} is not empty; add --resume to continue the run in it,"
                " --overwrite to replace that run, or give another folder"
            )
            raise FinetuneError(msg)


def _require_whole(name: str, value: object, *, at_least: int) -> None:
    """Refuse anything but a whole number of at least `at_least` (bool is not a number here)."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        msg = f"{name} must be a whole number of at least {at_least}, got {value!r}"
        raise FinetuneError(msg)


def _require_positive(name: str, value: object) -> None:
    """Refuse anything but a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        msg = f"{name} must be a finite number above 0, got {value!r}"
        raise FinetuneError(msg)

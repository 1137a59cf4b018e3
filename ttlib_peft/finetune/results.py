"""The numbers a method ends with, as a value that goes to JSON and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttlib_peft.atomic import read_json
from ttlib_peft.finetune.settings import Method

_HISTORY = (
    "step",
    "epoch",
    "loss",
    "grad_norm",
    "learning_rate",
    "eval_loss",
    "eval_accuracy",
    "eval_correct",
)


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One row of the table: what was trained, how well it does, and what it cost.

    `parameters` counts trained numbers by kind (adapters, norms, head, body, total); `percent_of_model` is their
    share in the base model with its head. `accuracy` is `correct / total` on the evaluation rows after the last
    step. `seconds_per_step` is the median training step (None if this process ran none), `seconds` the wall time of
    the method from loading to saving, `adapter_bytes` the size of its weight file in the folder `saved`.
    """

    method: Method
    learning_rate: float
    steps: int
    parameters: dict[str, int]
    percent_of_model: float
    accuracy: float
    correct: int
    total: int
    seconds_per_step: float | None
    seconds: float
    peak_memory_mb: float
    adapter_bytes: int
    saved: str
    history: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> MethodResult:
        """The result in a file that `as_json` went to."""
        return cls(**read_json(path))

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one logged quantity, e.g. `loss` or `eval_accuracy`."""
        points = [(entry["step"], entry[key]) for entry in self.history if key in entry]
        return [step for step, _ in points], [value for _, value in points]


def tidy_history(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The Trainer's log without its timings, in numbers that JSON has: a run and its repetition log the same."""
    return [
        {key: _finite(entry[key]) for key in _HISTORY if key in entry}
        for entry in entries
        if "loss" in entry or "eval_accuracy" in entry
    ]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""What the trainer asks of a task, whatever the model: rows to train on, how to batch them, and a score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Features = dict[str, Any]  # one encoded row


class EncodedWhenDrawn(Sequence[Features]):
    """Rows that are encoded when they are first asked for: a short run draws few of a large task's rows."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], encode: Callable[[Mapping[str, Any]], Features]) -> None:
        self._rows, self._encode = rows, encode
        self._encoded: dict[int, Features] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Features:
        if index not in self._encoded:
            self._encoded[index] = self._encode(self._rows[index])
        return self._encoded[index]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The mean loss over all rows and the task's own metric."""

    loss: float
    score: float


class Problem(Protocol):
    """A task made ready for one model: `EncoderProblem` has a head, `LanguageProblem` answers in words."""

    train: Sequence[Features]
    loss: Callable[..., Tensor] | None  # of a model's outputs and a batch's labels; None: the model's own

    def collate(self, features: Sequence[Features]) -> dict[str, Any]:
        """Pad some rows of `train` to one batch with labels."""

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Score the model on the rows that are held back."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode is as before afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's inputs belong."""
    return next(model.parameters()).device


def by_length(features: Sequence[Features], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches of about one length, the longest first: memory is short at once or never."""
    order = sorted(range(len(features)), key=lambda row: -len(features[row]["input_ids"]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]

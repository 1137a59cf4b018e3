"""Classification and regression on an encoder with a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from benchmarks.paper.metrics import METRICS
from benchmarks.paper.problem import EncodedWhenDrawn, Evaluation, Features, by_length, device_of, evaluating
from benchmarks.paper.tasks import Row, Task

_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class EncoderProblem:
    """One task's encoded rows; `held_back` are those that the score is taken on."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    train: Sequence[Features]
    held_back: Sequence[Features]
    loss: ClassVar[None] = None

    @classmethod
    def of(
        cls,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        train: Sequence[Row],
        held_back: Sequence[Row],
        max_length: int,
    ) -> EncoderProblem:
        """Encode the rows, those to train on when they are drawn."""

        def encode(row: Row) -> Features:
            return _encode(task, tokenizer, row, max_length)

        return cls(task, tokenizer, EncodedWhenDrawn(train, encode), [encode(row) for row in held_back])

    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        """Pad to the longest row of the batch."""
        return dict(self.tokenizer.pad(list(features), return_tensors="pt"))

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Mean loss and metric over all rows that are held back."""
        logits: list[Tensor] = [torch.empty(0)] * len(self.held_back)
        with evaluating(model):
            for rows in by_length(self.held_back, _EVALUATION_BATCH):
                batch = self.collate([self.held_back[row] for row in rows])
                inputs = {name: own.to(device_of(model)) for name, own in batch.items() if name != "labels"}
                for row, own in zip(rows, model(**inputs).logits.float().cpu(), strict=True):
                    logits[row] = own
        stacked = torch.stack(logits)
        labels = torch.tensor([features["labels"] for features in self.held_back])
        if self.task.kind == "regression":
            predictions, loss = stacked[:, 0], functional.mse_loss(stacked[:, 0], labels)
        else:
            predictions, loss = stacked.argmax(-1), functional.cross_entropy(stacked, labels)
        return Evaluation(float(loss), METRICS[self.task.metric](predictions.numpy(), labels.numpy()))


def outputs(task: Task) -> int:
    """The size of the head: one number, or one logit a label."""
    return 1 if task.kind == "regression" else len(task.labels)


def _encode(task: Task, tokenizer: PreTrainedTokenizerBase, row: Row, max_length: int) -> Features:
    encoded: dict[str, Any] = dict(tokenizer(row["text"], row["text_pair"], truncation=True, max_length=max_length))
    # A head starts near zero: a target between -1 and 1 is one that a few hundred steps can reach from there.
    encoded["labels"] = _centred(row["label"], task) if task.kind == "regression" else int(row["label"])
    return encoded


def _centred(label: float, task: Task) -> float:
    low, high = task.range
    return 2 * (label - low) / (high - low) - 1

"""Three small observers of a Trainer: a bar without chatter, a step clock and a guard against divergence."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import torch
from transformers import ProgressCallback, TrainerCallback, TrainerState, TrainingArguments

from ttlib_peft.finetune.settings import FinetuneError


class QuietProgress(ProgressCallback):
    """The Trainer's progress bar, labelled with the method and without a line of text per log entry."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def on_train_begin(self, *arguments: Any, **named: Any) -> None:
        """Open the bar under the method's name."""
        super().on_train_begin(*arguments, **named)
        if self.training_bar is not None:
            self.training_bar.set_description(self._label)

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        """Show the running loss in the bar itself; the table and the curve come at the end."""
        if self.training_bar is not None and logs is not None and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")


class StepClock(TrainerCallback):
    """Seconds of every training step: forward, backward and update, without evaluation and saving."""

    def __init__(self) -> None:
        self._began = 0.0
        self._seconds: list[float] = []

    @property
    def median(self) -> float | None:
        """The median step in seconds; None when no step was run (a resumed run may have none left)."""
        return statistics.median(self._seconds) if self._seconds else None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._began = _now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock."""
        self._seconds.append(_now() - self._began)


class DivergenceGuard(TrainerCallback):
    """Stops a run whose loss is no longer a number, instead of training on to a table full of chance accuracy."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        *_: Any,
        logs: dict[str, float] | None = None,
        **__: Any,
    ) -> None:
        """Refuse a loss that is not finite."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            msg = (
                f"training diverged: the loss is {loss} at step {state.global_step} with learning rate "
                f"{args.learning_rate}; lower the learning rate"
            )
            raise FinetuneError(msg)


def _now() -> float:
    """The time, after the work queued on the device is done: kernels on CUDA run behind the clock."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()

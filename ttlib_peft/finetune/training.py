"""One method of a run on transformers' Trainer: train, evaluate, measure, save, and continue if interrupted."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ttlib_peft.accounting import trainable_parameters
from ttlib_peft.atomic import remove, write_json
from ttlib_peft.finetune.base_model import BaseModel, no_transformers_bars
from ttlib_peft.finetune.callbacks import DivergenceGuard, QuietProgress, StepClock
from ttlib_peft.finetune.memory import PeakMemory
from ttlib_peft.finetune.methods import make_trainable
from ttlib_peft.finetune.results import MethodResult, tidy_history
from ttlib_peft.finetune.saving import save_trained, saved_bytes, saved_folder
from ttlib_peft.finetune.settings import FinetuneSettings, Method

RESULT_FILE = "result.json"
_CHECKPOINTS = "checkpoints"
_WARMUP_FRACTION = 0.06
_LOSS_POINTS = 50  # averages over a fiftieth of the run give a curve one can read
_EVALUATIONS = 5


@dataclass(frozen=True)
class Task:
    """What all methods of a run share: the settings, the model to start from and the encoded rows."""

    settings: FinetuneSettings
    base: BaseModel
    train: datasets.Dataset
    evaluation: datasets.Dataset

    @property
    def steps(self) -> int:
        """The number of training steps of every method."""
        settings = self.settings
        if settings.max_steps is not None:
            return settings.max_steps
        return math.ceil(settings.total_epochs * math.ceil(len(self.train) / settings.batch_size))


def run_method(
    task: Task,
    method: Method,
    *,
    callbacks: Sequence[TrainerCallback] = (),
    on_trained: Callable[[Method, nn.Module], None] | None = None,
) -> MethodResult:
    """Train `method` from a fresh base model (or from its last checkpoint) and write all it leaves on disk.

    `result.json` is written last and the checkpoints go after it, so a method is either finished or can continue.
    """
    folder = task.settings.output / method
    saved = folder / saved_folder(method)
    began = time.perf_counter()
    clock = StepClock()
    with PeakMemory() as memory, no_transformers_bars():
        base = task.base.build()
        size = sum(parameter.numel() for parameter in base.parameters())
        model = make_trainable(base, method, task.settings)
        trainer = _trainer(task, method, model, [clock, *callbacks])
        trainer.train(resume_from_checkpoint=_last_checkpoint(folder / _CHECKPOINTS))
        model.eval()
        save_trained(model, method, saved, task.base.tokenizer)
    parameters = trainable_parameters(model)
    result = MethodResult(
        method=method,
        learning_rate=task.settings.learning_rate_of(method),
        steps=task.steps,
        parameters=parameters,
        percent_of_model=100 * parameters["total"] / size,
        seconds_per_step=clock.median,
        seconds=time.perf_counter() - began,
        peak_memory_mb=memory.peak_mb,
        adapter_bytes=saved_bytes(saved),
        saved=f"{method}/{saved.name}",
        history=tidy_history(trainer.state.log_history),
        **_final_score(trainer, len(task.evaluation)),
    )
    if on_trained is not None:
        on_trained(method, model)
    write_json(folder / RESULT_FILE, result.as_json())
    remove(folder / _CHECKPOINTS)
    return result


def finished_result(folder: Path) -> MethodResult | None:
    """The result of a method that an earlier run finished, tidying up checkpoints it may have left; else None."""
    if not (folder / RESULT_FILE).is_file():
        return None
    remove(folder / _CHECKPOINTS)
    return MethodResult.read(folder / RESULT_FILE)


def _trainer(task: Task, method: Method, model: nn.Module, callbacks: Sequence[TrainerCallback]) -> Trainer:
    trainer = Trainer(
        model=model,
        args=_arguments(task, method),
        train_dataset=task.train,
        eval_dataset=task.evaluation,
        data_collator=DataCollatorWithPadding(task.base.tokenizer),
        processing_class=task.base.tokenizer,
        compute_metrics=_accuracy,
        callbacks=[DivergenceGuard(), *callbacks],
    )
    # The stock observers print every log entry; ours keep the terminal for one bar and one table.
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if _on_a_terminal():
        trainer.add_callback(QuietProgress(method))
    return trainer


def _arguments(task: Task, method: Method) -> TrainingArguments:
    settings = task.settings
    evaluate_every = settings.eval_steps or math.ceil(task.steps / _EVALUATIONS)
    return TrainingArguments(
        output_dir=str(settings.output / method / _CHECKPOINTS),
        max_steps=task.steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=4 * settings.batch_size,  # no gradients to keep
        learning_rate=settings.learning_rate_of(method),
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(_WARMUP_FRACTION * task.steps),
        weight_decay=0.0,
        optim="adamw_torch",
        eval_strategy="steps",
        eval_steps=evaluate_every,
        save_strategy="steps",
        save_steps=evaluate_every,
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=math.ceil(task.steps / _LOSS_POINTS),
        logging_nan_inf_filter=False,  # DivergenceGuard must see the loss as it is
        # The order of the rows comes from the seed and the epoch alone. Sorting rows by length would save padding,
        # but its order depends on how many random numbers dropout drew before: it would differ between methods.
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_pin_memory=False,
        disable_tqdm=not _on_a_terminal(),
        report_to="none",
    )


def _accuracy(prediction: EvalPrediction) -> dict[str, Any]:
    """Share and number of rows whose highest logit is the label's."""
    correct = int((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).sum())
    return {"accuracy": correct / len(prediction.label_ids), "correct": correct}


def _final_score(trainer: Trainer, total: int) -> dict[str, Any]:
    """The last evaluation, which the Trainer makes after the last step."""
    last = next(entry for entry in reversed(trainer.state.log_history) if "eval_accuracy" in entry)
    return {"accuracy": last["eval_accuracy"], "correct": int(last["eval_correct"]), "total": total}


def _last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint; the Trainer writes its state file last, so one without it was cut short."""
    complete = [path.parent for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")]
    newest = max(complete, key=lambda path: int(path.name.split("-")[-1]), default=None)
    return None if newest is None else str(newest)


def _on_a_terminal() -> bool:
    return sys.stderr.isatty()

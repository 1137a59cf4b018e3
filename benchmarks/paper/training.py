"""The one trainer behind every table: the same optimiser, schedule, rows and evaluation for all methods and tasks."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from benchmarks.memory import hand_back_freed_memory
from benchmarks.paper import models
from benchmarks.paper.cells import Cell, DType
from benchmarks.paper.encoder import EncoderProblem, outputs
from benchmarks.paper.language import LanguageProblem
from benchmarks.paper.methods import count_parameters, make_trainable
from benchmarks.paper.ordering import batches
from benchmarks.paper.problem import Evaluation, Features, Problem
from benchmarks.paper.sources import Source
from benchmarks.paper.tasks import TASKS, Row, load_splits
from ttlib_peft.finetune.memory import PeakMemory

_WARMUP = 0.06  # of the steps; then linear to zero
_LOSS_POINTS = 50  # of the training loss that are kept


def run_cell(cell: Cell, source: Source) -> dict[str, Any]:
    """Train and evaluate one cell, without leaving a file behind.

    Returns `status` ("finished" or "diverged"), `scores` by task after all training, `after_each` (of a sequence: the
    scores after each task on those learnt so far), the final evaluation `loss`, `losses` [[step, training loss], …],
    `curve` [[step, evaluation loss, score], …], trainable `parameters`, time and memory.  A run whose loss is no number
    ends there, with what it had.  The same cell gives the same numbers on the same machine.
    """
    hand_back_freed_memory()  # of the run before: it grew to gigabytes with a language model
    began, cpu_began = time.perf_counter(), time.process_time()
    with PeakMemory() as memory:
        outcome = _outcome(cell, source)
    return {
        **outcome,
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - cpu_began, 2),
        "peak_memory_mb": round(memory.peak_mb),
    }


def _outcome(cell: Cell, source: Source) -> dict[str, Any]:
    problems = {name: _problem(cell, name, source) for name in cell.tasks}
    model = _model(cell)
    with _products_in(cell.dtype):
        return _trained_and_scored(cell, model, problems)


def _trained_and_scored(cell: Cell, model: nn.Module, problems: Mapping[str, Problem]) -> dict[str, Any]:
    parameters = count_parameters(model)
    watch = Watch(cell.curve_every)
    after_each: list[dict[str, float]] = []
    for number, problem in enumerate(problems.values()):
        watch.begin(problem, after=number * cell.budget.steps)
        _train(cell, model, problem, watch)
        if watch.diverged:
            break
        learnt = cell.tasks[: number + 1]
        evaluations = {name: problems[name].evaluate(model) for name in learnt}
        after_each.append({name: evaluation.score for name, evaluation in evaluations.items()})
        watch.reached(evaluations[cell.tasks[number]])
    return {
        "status": "diverged" if watch.diverged else "finished",
        "scores": {} if watch.diverged else after_each[-1],
        "after_each": after_each if len(cell.tasks) > 1 else [],
        "loss": watch.last_loss,
        "losses": watch.losses,
        "curve": watch.curve,
        "parameters": parameters,
    }


def _problem(cell: Cell, name: str, source: Source) -> Problem:
    task = TASKS[name]
    splits = load_splits(name, source, seed=cell.seed, examples=cell.budget.examples)
    held_back = splits.tune if cell.scored_on == "tune" else splits.report
    kind = LanguageProblem if models.MODELS[cell.model].kind == "decoder" else EncoderProblem
    return kind.of(
        task,
        models.tokenizer(cell.model),
        train=splits.train,
        held_back=_spread(held_back, cell.budget.scored),
        max_length=cell.budget.max_length,
    )


def _spread(rows: Sequence[Row], size: int | None) -> Sequence[Row]:
    """`size` of the rows, evenly spaced: neighbours often share a text."""
    if size is None or size >= len(rows):
        return rows
    return [rows[i * len(rows) // size] for i in range(size)]


def _model(cell: Cell) -> nn.Module:
    """The model under its method; tasks that are learnt in sequence share the head, as in the paper's Table 4."""
    labels = None
    if models.MODELS[cell.model].kind == "encoder":
        sizes = {outputs(TASKS[name]) for name in cell.tasks}
        if len(sizes) > 1:
            msg = f"{', '.join(cell.tasks)} need heads of sizes {sorted(sizes)}; a sequence shares one head"
            raise ValueError(msg)
        (labels,) = sizes
    base = models.build(cell.model, labels=labels, seed=cell.seed, dtype=getattr(torch, cell.dtype))
    model = make_trainable(base, cell.method, seed=cell.seed, **dict(cell.options))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # a step of a small rate is lost in bfloat16
    return model


def _products_in(dtype: DType) -> contextlib.AbstractContextManager[object]:
    """Autocast, where products are not in float32: it brings trained and frozen weights together.

    Without its cache, which would give the weights of the first step to all others.
    """
    if dtype == "float32":
        return contextlib.nullcontext()
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(kind, getattr(torch, dtype), cache_enabled=False)


def _train(cell: Cell, model: nn.Module, problem: Problem, watch: Watch) -> None:
    budget, drawn = cell.budget, problem.train

    def length(row: int) -> int:
        return len(drawn[row]["input_ids"])

    order = batches(len(drawn), length, batch_size=budget.batch_size, steps=budget.steps, seed=cell.seed)
    rows: list[Features] = [drawn[row] for batch in order for row in batch]
    set_seed(cell.seed)  # dropout draws the same numbers whatever building the model drew
    with tempfile.TemporaryDirectory() as folder:  # the Trainer wants one; nothing is saved
        trainer = Trainer(
            model=model,
            args=_arguments(cell, folder),
            train_dataset=rows,
            compute_loss_func=problem.loss,
            data_collator=problem.collate,
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.train()


def _arguments(cell: Cell, folder: str) -> TrainingArguments:
    steps = cell.budget.steps
    if cell.learning_rate is None:
        msg = f"{cell.label} has no learning rate; pick one on the slice of the training rows first"
        raise ValueError(msg)
    return TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=cell.budget.batch_size,
        train_sampling_strategy="sequential",
        learning_rate=cell.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(_WARMUP * steps),
        weight_decay=0.0,
        optim="adamw_torch",
        logging_strategy="steps",
        logging_steps=max(1, steps // _LOSS_POINTS),
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        seed=cell.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
    )


@dataclass
class Watch(TrainerCallback):
    """Keeps the losses, evaluates on the way, and stops a run whose loss is no longer a number."""

    curve_every: int
    diverged: bool = False
    last_loss: float | None = None
    losses: list[list[float]] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)
    _problem: Problem | None = None
    _before: int = 0

    def begin(self, problem: Problem, *, after: int) -> None:
        """Watch the training on `problem`, `after` steps on earlier ones."""
        self._problem, self._before = problem, after

    def reached(self, evaluation: Evaluation) -> None:
        """Take in the evaluation at the end of a task."""
        self.last_loss = _rounded(evaluation.loss)
        self.diverged |= self.last_loss is None

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, *__: Any, model: nn.Module, **___: Any) -> None:
        """Evaluate before the first step, where a curve is wanted."""
        self._evaluate(state.global_step, model)

    def on_step_end(self, _: TrainingArguments, state: TrainerState, *__: Any, model: nn.Module, **___: Any) -> None:
        """Evaluate on the way."""
        self._evaluate(state.global_step, model)

    def on_log(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float], **__: Any
    ) -> None:
        """Keep the loss; stop at one that is no number."""
        if "loss" in logs:
            loss = _rounded(logs["loss"])
            if loss is None:
                self.diverged = control.should_training_stop = True
            else:
                self.losses.append([self._before + state.global_step, loss])

    def _evaluate(self, step: int, model: nn.Module) -> None:
        if self.curve_every and step % self.curve_every == 0 and not self.diverged:
            evaluation = self._problem.evaluate(model)
            self.curve.append([self._before + step, _rounded(evaluation.loss), round(evaluation.score, 5)])


def _rounded(loss: float) -> float | None:
    """Five digits are enough to draw; None for what is no number."""
    return round(loss, 5) if math.isfinite(loss) else None

"""The main job: fine-tune a sequence classifier with several methods and compare them in one table."""

from ttlib_peft.finetune.job import FinetuneReport, run_finetune
from ttlib_peft.finetune.report import draw_learning_curves, loading_lines, results_table
from ttlib_peft.finetune.results import MethodResult
from ttlib_peft.finetune.saving import load_trained
from ttlib_peft.finetune.settings import (
    DEFAULT_LEARNING_RATES,
    METHODS,
    FinetuneError,
    FinetuneSettings,
    Method,
)

__all__ = [
    "DEFAULT_LEARNING_RATES",
    "METHODS",
    "FinetuneError",
    "FinetuneReport",
    "FinetuneSettings",
    "Method",
    "MethodResult",
    "draw_learning_curves",
    "load_trained",
    "loading_lines",
    "results_table",
    "run_finetune",
]

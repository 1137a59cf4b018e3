"""The whole run: check, train every method the same way, and write one folder that tells the story."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from torch import nn
from transformers import TrainerCallback

from ttlib_peft.atomic import read_json, remove, write_json
from ttlib_peft.finetune.base_model import BaseModel, locate_base_model
from ttlib_peft.finetune.data import ClassificationData, encode, load_data
from ttlib_peft.finetune.methods import check_target_modules
from ttlib_peft.finetune.report import draw_learning_curves
from ttlib_peft.finetune.results import MethodResult
from ttlib_peft.finetune.settings import METHODS, FinetuneError, FinetuneSettings, Method
from ttlib_peft.finetune.training import Task, finished_result, run_method

RUN_FILE = "run.json"
RESULTS_FILE = "results.json"
CURVE_FILE = "learning_curve.png"
_VERSIONED = ("ttlib", "torch", "transformers", "peft", "accelerate", "datasets", "safetensors")


def _say_nothing(_line: str) -> None:
    """Be silent, as a library is."""


@dataclass(frozen=True)
class FinetuneReport:
    """What a run ends with: its settings, the task it was run on and one result a method."""

    settings: FinetuneSettings
    data: ClassificationData
    base: BaseModel
    results: tuple[MethodResult, ...]

    def result(self, method: Method) -> MethodResult:
        """The result of one method of the run."""
        return next(result for result in self.results if result.method == method)


def run_finetune(
    settings: FinetuneSettings,
    *,
    say: Callable[[str], None] = _say_nothing,
    callbacks: Sequence[TrainerCallback] = (),
    on_trained: Callable[[Method, nn.Module], None] | None = None,
) -> FinetuneReport:
    """Fine-tune `settings.model` on `settings.data` with every method of `settings.methods`, one after the other.

        report = run_finetune(FinetuneSettings(output=Path("out"), methods=("loretta-rep", "lora")))
        report.result("loretta-rep").accuracy

    `say` gets a line of text now and then; `callbacks` are added to every Trainer; `on_trained` gets each trained
    model before it is let go. The output folder then holds `run.json` (settings), `results.json`,
    `learning_curve.png` and a folder a method. Raises FinetuneError for anything the caller can put right.
    """
    recorded = _earlier_run(settings)
    data = load_data(settings)
    base = locate_base_model(settings, data.label_names)
    check_target_modules(base.skeleton(), settings)
    _open_output(settings, data, recorded)
    say(_describe(settings, data))
    task = Task(
        settings,
        base,
        train=encode(data.train, base.tokenizer, max_length=settings.max_length),
        evaluation=encode(data.evaluation, base.tokenizer, max_length=settings.max_length, by_length=True),
    )
    results = []
    for method in settings.methods:
        result = finished_result(settings.output / method)
        if result is None:
            say(f"{method}: {task.steps} steps at learning rate {settings.learning_rate_of(method):g}")
            result = run_method(task, method, callbacks=callbacks, on_trained=on_trained)
        say(f"{method}: {result.correct} of {result.total} right ({result.accuracy:.2%}), {result.seconds:.0f} s")
        results.append(result)
    report = FinetuneReport(settings, data, base, tuple(results))
    write_json(settings.output / RESULTS_FILE, _as_json(report))
    if find_spec("matplotlib") is None:
        say(f"no {CURVE_FILE}: matplotlib is not installed; run: pip install matplotlib")
    else:
        draw_learning_curves(report.results, settings.output / CURVE_FILE)
    return report


def _earlier_run(settings: FinetuneSettings) -> dict[str, Any] | None:
    """Return what `run.json` says of the run to continue or to replace, None if there is none.

    A folder that holds something else is refused, and so is continuing with other settings: half of the result
    would be one thing and half another.
    """
    if not settings.output.is_dir() or not any(settings.output.iterdir()):
        return None
    file = settings.output / RUN_FILE
    if not file.is_file():
        msg = (
            f"output folder {settings.output} is not empty and holds no {RUN_FILE}, so it is not the folder of an"
            " earlier run; give another folder"
        )
        raise FinetuneError(msg)
    recorded: dict[str, Any] = read_json(file)
    differences = settings.differences(recorded["settings"]) if settings.resume else []
    if differences:
        msg = (
            f"cannot resume {settings.output} with other settings ({'; '.join(differences)}); give the same ones,"
            " or --overwrite to start anew"
        )
        raise FinetuneError(msg)
    return recorded


def _open_output(settings: FinetuneSettings, data: ClassificationData, recorded: dict[str, Any] | None) -> None:
    """Make the output folder ready: without an earlier run for a new one, as it is for one that continues."""
    if settings.resume and recorded is not None:
        if recorded["data_fingerprint"] != data.fingerprint:
            msg = (
                f"cannot resume {settings.output}: the rows of {settings.data} have changed since; give the same"
                " data, or --overwrite to start anew"
            )
            raise FinetuneError(msg)
        return
    if recorded is not None:
        # Only what a run writes is removed: a user may keep notes in the folder, or name the wrong folder.
        for name in (RESULTS_FILE, CURVE_FILE, *METHODS):
            remove(settings.output / name)
    write_json(
        settings.output / RUN_FILE,
        {"settings": settings.record(), "data_fingerprint": data.fingerprint, "versions": _versions()},
    )


def _describe(settings: FinetuneSettings, data: ClassificationData) -> str:
    line = (
        f"{settings.data}: {len(data.train)} rows to train on, {len(data.evaluation)} to evaluate on, "
        f"{len(data.label_names)} classes"
    )
    leaked = data.leaked
    return line + (f" (caution: {leaked} evaluation texts are also training texts)" if leaked else "")


def _as_json(report: FinetuneReport) -> dict[str, Any]:
    data = report.data
    return {
        "settings": report.settings.record(),
        "data": {
            "train_rows": len(data.train),
            "evaluation_rows": len(data.evaluation),
            "evaluation_texts_also_in_train": data.leaked,
            "labels": list(data.label_names),
            "fingerprint": data.fingerprint,
        },
        "versions": _versions(),
        "results": [result.as_json() for result in report.results],
    }


def _versions() -> dict[str, str | None]:
    """The versions that the numbers were measured with; None for a package that runs from a bare source folder."""
    versions: dict[str, str | None] = {}
    for package in _VERSIONED:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions

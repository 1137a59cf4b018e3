"""The demonstration: four methods on a real model and real news, and proof that what was saved is what was trained."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from ttlib_peft.atomic import write_json
from ttlib_peft.convert import save_as_lora
from ttlib_peft.finetune import lora_check
from ttlib_peft.finetune.base_model import locate_base_model
from ttlib_peft.finetune.data import load_data
from ttlib_peft.finetune.job import FinetuneReport, run_finetune
from ttlib_peft.finetune.lora_check import logits_of
from ttlib_peft.finetune.settings import FinetuneSettings, Method

LORETTA: tuple[Method, ...] = ("loretta-rep", "loretta-adp")
LORA_FOLDER = "as-lora"

_LOWEST_ACCURACY = 0.95
_LARGEST_GAP = 0.015
_FEWEST_TIMES_SMALLER = 8
_LARGEST_DIFFERENCE = 1e-4
_PROBE_TEXTS = 64  # whole batches of lora_check: padding, and so the last bits, depend on what is in a batch


@dataclass(frozen=True)
class Check:
    """One statement about the finished run, whether it holds, and the number that says so."""

    statement: str
    passed: bool
    measured: str


def demo_settings(output: Path) -> FinetuneSettings:
    """The fixed settings of the demonstration: sized for two cores and about five minutes."""
    return FinetuneSettings(
        output=output,
        methods=(*LORETTA, "lora", "head"),
        max_length=96,
        max_steps=192,
        batch_size=8,
        eval_steps=64,
        overwrite=True,
    )


def run_demo(output: Path, *, say: Callable[[str], None]) -> tuple[FinetuneReport, tuple[Check, ...]]:
    """Run the demonstration into `output` and check its claims; a claim that fails is reported, not raised."""
    settings = demo_settings(output)
    data = load_data(settings)
    base = locate_base_model(settings, data.label_names)
    texts = data.evaluation.texts
    trained: dict[Method, torch.Tensor] = {}

    def keep_logits(method: Method, model: nn.Module) -> None:
        if method in LORETTA:
            chosen = texts if method == "loretta-rep" else texts[:_PROBE_TEXTS]  # the export is checked on all
            trained[method] = logits_of(model, base.tokenizer, chosen, max_length=settings.max_length)

    report = run_finetune(settings, say=say, on_trained=keep_logits)
    say("checking the saved adapters")
    checks = check_targets(report)
    checks += [check_reloaded(report, method, trained[method]) for method in LORETTA]
    checks.append(check_as_lora(report, trained["loretta-rep"]))
    return report, tuple(checks)


def check_targets(report: FinetuneReport) -> list[Check]:
    """The accuracy and the size that the demonstration promises."""
    rep, lora = report.result("loretta-rep"), report.result("lora")
    checks = [
        Check(
            f"{method} reaches {_LOWEST_ACCURACY:.0%} accuracy on held-out articles",
            report.result(method).accuracy >= _LOWEST_ACCURACY,
            f"{report.result(method).accuracy:.2%}",
        )
        for method in LORETTA
    ]
    gap = lora.accuracy - rep.accuracy
    checks.append(
        Check(
            f"loretta-rep is within {100 * _LARGEST_GAP:g} points of LoRA",
            gap <= _LARGEST_GAP,
            f"{100 * rep.accuracy:.2f} % and {100 * lora.accuracy:.2f} %",
        )
    )
    few, many = rep.parameters["adapters"], lora.parameters["adapters"]
    checks.append(
        Check(
            f"loretta-rep has at most 1/{_FEWEST_TIMES_SMALLER} of LoRA's adapter parameters",
            few * _FEWEST_TIMES_SMALLER <= many,
            f"{few:,} and {many:,}, 1/{many / few:.1f}",
        )
    )
    return checks


def check_reloaded(report: FinetuneReport, method: Method, trained: torch.Tensor) -> Check:
    """The saved adapter on a fresh base model against the model that was trained, bit for bit."""
    texts = report.data.evaluation.texts[:_PROBE_TEXTS]
    reloaded = logits_of(_reload(report, method), report.base.tokenizer, texts, max_length=report.settings.max_length)
    expected = trained[:_PROBE_TEXTS]
    difference = (reloaded - expected).abs().max().item()
    return Check(
        f"{method}: saved and loaded into a fresh model, the logits of {len(texts)} texts are bit-identical",
        torch.equal(reloaded, expected),
        f"largest difference {difference:g}",
    )


def check_as_lora(report: FinetuneReport, trained: torch.Tensor) -> Check:
    """The update as a plain LoRA adapter, loaded by stock peft in a process that does not have this library."""
    folder = report.settings.output / "loretta-rep" / LORA_FOLDER
    save_as_lora(_reload(report, "loretta-rep"), folder)
    logits = _logits_of_stock_peft(report, folder)
    difference = (logits - trained).abs().max().item()
    agreeing = int((logits.argmax(-1) == trained.argmax(-1)).sum())
    return Check(
        f"loretta-rep as a LoRA adapter in stock peft: logits within {_LARGEST_DIFFERENCE:g}, predictions identical",
        difference < _LARGEST_DIFFERENCE and agreeing == len(trained),
        f"largest difference {difference:.1e}, {agreeing} of {len(trained)} predictions agree",
    )


def _reload(report: FinetuneReport, method: Method) -> PeftModel:
    folder = report.settings.output / report.result(method).saved
    # Another head than the one training started from: only the saved head can bring the logits back.
    base = replace(report.base, seed=report.base.seed + 1).build()
    return PeftModel.from_pretrained(base, str(folder)).eval()


def _logits_of_stock_peft(report: FinetuneReport, adapter: Path) -> torch.Tensor:
    """What `lora_check.py`, run as a script of its own, computes for the evaluation texts."""
    with tempfile.TemporaryDirectory(prefix="ttlib-peft-demo-") as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "logits.safetensors")
        write_json(
            request,
            {
                "base": report.base.name,
                "adapter": str(adapter),
                "num_labels": len(report.data.label_names),
                "max_length": report.settings.max_length,
                "texts": list(report.data.evaluation.texts),
            },
        )
        # -P: the script's own folder must not be on the import path, its modules have everyday names.
        command = [sys.executable, "-P", str(Path(lora_check.__file__)), str(request), str(answer)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own)
        if process.returncode != 0:
            msg = f"loading the exported LoRA adapter with stock peft failed:\n{process.stderr}"
            raise RuntimeError(msg)
        return load_file(str(answer))["logits"]

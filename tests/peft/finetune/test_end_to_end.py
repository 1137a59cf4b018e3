"""The real model and the real corpus, for a handful of steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ttlib_peft.finetune import FinetuneReport, FinetuneSettings, run_finetune
from ttlib_peft.finetune.base_model import locate_base_model
from ttlib_peft.finetune.data import load_data
from ttlib_peft.finetune.demo import LORETTA, check_as_lora, check_reloaded, check_targets, demo_settings
from ttlib_peft.finetune.lora_check import logits_of

pytestmark = pytest.mark.usefixtures("embedded_packages")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[FinetuneReport, dict[str, Any], dict[str, Any]]:
    """Four steps of both LoRETTA methods: the report, and logits and trained parameters by method."""
    settings = FinetuneSettings(
        output=tmp_path_factory.mktemp("short"), methods=LORETTA, max_length=16, max_steps=4, eval_steps=4
    )
    data = load_data(settings)
    base = locate_base_model(settings, data.label_names)
    logits, parameters = {}, {}

    def keep(method: str, model: nn.Module) -> None:
        logits[method] = logits_of(model, base.tokenizer, data.evaluation.texts, max_length=16)
        parameters[method] = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    return run_finetune(settings, on_trained=keep), logits, parameters


@pytest.mark.parametrize("method", LORETTA)
def test_a_saved_adapter_gives_the_same_bits_in_a_fresh_model(short: Any, method: Any) -> None:
    report, logits, _ = short
    check = check_reloaded(report, method, logits[method])
    assert check.passed, check.measured


@pytest.mark.parametrize("method", LORETTA)
def test_every_trained_tensor_is_in_the_file(short: Any, method: Any) -> None:
    report, _, parameters = short
    stored = load_file(str(report.settings.output / method / "adapter" / "adapter_model.safetensors"))
    assert parameters[method]
    for name, value in parameters[method].items():
        key = name.replace(".default", "").replace("modules_to_save.", "")
        assert torch.equal(stored[key], value), name


def test_the_update_is_exact_as_lora_in_stock_peft(short: Any) -> None:
    report, logits, _ = short
    check = check_as_lora(report, logits["loretta-rep"])
    assert check.passed, check.measured


def test_missed_targets_fail_their_checks(short: Any, tmp_path: Path) -> None:
    report, _, _ = short
    settings = demo_settings(tmp_path)
    rep, adp = report.results
    many = {**rep.parameters, "adapters": 8 * rep.parameters["adapters"]}
    results = (
        replace(rep, accuracy=0.96),
        replace(adp, accuracy=0.94),
        replace(rep, method="lora", accuracy=0.98, parameters=many),
    )
    checks = check_targets(FinetuneReport(settings, report.data, report.base, results))
    assert [check.passed for check in checks] == [True, False, False, True]
    assert checks[2].measured == "96.00 % and 98.00 %"

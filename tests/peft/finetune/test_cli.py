from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner, Result

from ttlib_peft import cli
from ttlib_peft.finetune import FinetuneSettings

Run = Callable[..., Result]


@pytest.fixture
def run(tiny_model: str, tiny_data: str, tmp_path: Path) -> Run:
    """Call `ttlib-peft finetune` on the tiny model; options given later win."""

    def call(*options: str) -> Result:
        common = ["--model", tiny_model, "--data", tiny_data, "--output", str(tmp_path / "out"), "--max-length", "32"]
        return CliRunner().invoke(cli.app, ["finetune", *common, "--max-steps", "2", "--rank", "4", *options])

    return call


def test_help_names_the_commands() -> None:
    text = CliRunner().invoke(cli.app, ["--help"]).stdout
    assert all(command in text for command in ("finetune", "demo", "export-lora"))


def test_the_options_are_the_settings_and_so_are_their_defaults(tmp_path: Path) -> None:
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(cli.finetune).parameters.items()
        if name != "output"
    }
    assert FinetuneSettings(output=tmp_path, **cli._as_settings(options)) == FinetuneSettings(output=tmp_path)
    assert {field.name for field in fields(FinetuneSettings)} == {*options, "output", "methods"} - {"method"}


def test_a_run_prints_one_table_and_how_to_load_the_result(run: Run, tmp_path: Path) -> None:
    result = run("--method", "head", "--method", "lora", "--init-weights", "zero", "--target-modules", "query, key")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("accur.") == 1
    assert [line.split()[0] for line in result.stdout.splitlines() if "/16" in line] == ["head", "lora"]
    assert "load_trained" in result.stdout
    assert "40 rows to train on, 16 to evaluate on, 2 classes" in result.stderr
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert settings["init_weights"] == "zero"
    assert settings["target_modules"] == ["query", "key"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "loretta"], "error: unknown method 'loretta'; the methods are"),
        (["--data", "none.csv"], "error: data none.csv not found"),
        (["--label-column", "class"], "error: no column 'class' in split 'train'"),
        (["--learning-rate", "nan"], "error: learning_rate must be a finite number above 0, got nan"),
        (["--epochs", "1"], "error: epochs and max_steps exclude each other"),
    ],
)
def test_a_mistake_gives_one_line_and_exit_code_2(run: Run, options: list[str], message: str) -> None:
    result = run(*options)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_an_error_that_is_not_ours_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise ValueError

    monkeypatch.setattr(cli, "run_finetune", fail)
    assert type(run().exception) is ValueError


def test_an_interruption_says_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_finetune", interrupt)
    result = run()
    assert result.exit_code == 130
    assert "--resume" in result.stderr


def test_an_adapter_is_exported_as_plain_lora(run: Run, tiny_model: str, tmp_path: Path) -> None:
    assert run("--method", "loretta-rep", "--method", "loretta-adp").exit_code == 0
    command = ["export-lora", str(tmp_path / "out" / "loretta-rep" / "adapter"), str(tmp_path / "lora")]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    PeftModel.from_pretrained(base, str(tmp_path / "lora"))

    for arguments, message in (
        (command[1:], "exists and is not an empty folder"),
        ([str(tmp_path / "out" / "loretta-adp" / "adapter"), str(tmp_path / "adp")], "cannot be exported as LoRA"),
        ([str(tmp_path / "out"), str(tmp_path / "no")], "no adapter_config.json in"),
    ):
        refused = CliRunner().invoke(cli.app, ["export-lora", *arguments])
        assert refused.exit_code == 2
        assert message in refused.stderr

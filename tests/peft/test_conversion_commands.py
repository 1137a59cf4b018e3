"""The commands that turn adapter folders into others."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from typer.testing import CliRunner

from tests.peft.test_reference_import import REP, ROOT, rep_checkpoint, write
from tests.peft.tiny import bert, shake, tokens
from ttlib_peft import LorettaRepConfig, cli


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def lora(tmp_path):
    model = shake(get_peft_model(bert(), LoraConfig(task_type="SEQ_CLS", r=8))).eval()
    model.save_pretrained(tmp_path / "lora")
    return tmp_path / "lora"


@pytest.mark.parametrize("bound", [("--tensor-rank", 2), ("--eps", 0.5), ("--budget", 2000)])
def test_a_lora_is_compressed(bound, lora, tmp_path):
    result = call("compress-lora", lora, tmp_path / "small", *bound)
    assert result.exit_code == 0, result.output
    *modules, last = result.stdout.splitlines()
    assert len(modules) == 4
    assert modules[0].startswith("bert.encoder.layer.0.attention.self.query: relative error ")
    model = PeftModel.from_pretrained(bert(), tmp_path / "small")
    assert type(model.peft_config["default"]) is LorettaRepConfig
    assert last.startswith(f"wrote {tmp_path / 'small'}: 3072 -> ")


def test_a_compression_that_wins_nothing_says_so(lora, tmp_path):
    result = call("compress-lora", lora, tmp_path / "large", "--eps", "1e-4")
    assert result.exit_code == 0
    assert "warning: the tensor trains need" in result.stderr


def test_a_reference_checkpoint_is_imported(tmp_path):
    folder = write(tmp_path / "theirs", REP, rep_checkpoint(b=(6, 8, 8)))
    result = call("import-reference", folder, tmp_path / "ours")
    assert result.exit_code == 0, result.output
    assert "not in the file: normalisation layers" in result.stdout
    assert "decomposed again, the same matrix: bert.encoder.layer.1.attention.self.query.lora_B" in result.stdout
    model = PeftModel.from_pretrained(bert(torch.float64), tmp_path / "ours")
    assert f"{ROOT}classifier.modules_to_save.default.weight" in model.state_dict()


def test_an_export_can_be_capped(tmp_path):
    base = tmp_path / "base"
    bert().save_pretrained(base)
    model = shake(get_peft_model(bert(), LorettaRepConfig(task_type="SEQ_CLS"))).eval()
    model.save_pretrained(tmp_path / "rep")
    result = call("export-lora", tmp_path / "rep", tmp_path / "out", "--base", base, "--rank", 2)
    assert result.exit_code == 0, result.output
    assert "warning: rank=2 cuts 4 of 4 updates; the largest relative error is" in result.stderr
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 2
    assert PeftModel.from_pretrained(bert(), tmp_path / "out")(tokens()).logits.shape == (3, 3)


def test_refusals_are_one_line(lora, tmp_path):
    weird = write(tmp_path / "weird", {**REP, "enable_lora": [True]}, rep_checkpoint())
    for arguments, message in (
        (["compress-lora", lora, tmp_path / "no"], "give exactly one of tensor_rank, eps and budget"),
        (["compress-lora", lora, tmp_path / "no", "--budget", 3], "budget=3 is below"),
        (["compress-lora", tmp_path / "nowhere", tmp_path / "no", "--eps", 0.1], "nowhere"),
        (["compress-lora", lora, lora, "--eps", 0.1], "exists and is not an empty folder"),
        (["import-reference", lora, tmp_path / "no"], "has no tensor_rank"),
        (["import-reference", weird, tmp_path / "no"], "enable_lora=[True]"),
        (["import-reference", weird, weird], "exists and is not an empty folder"),
    ):
        refused = call(*arguments)
        assert refused.exit_code == 2, arguments
        assert message in refused.stderr
        assert refused.stderr.startswith("error: ")
        assert len(refused.stderr.splitlines()) == 1
        assert not (tmp_path / "no").exists()

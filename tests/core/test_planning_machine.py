"""What `ttlib.plan` refuses, caches, picks and prints; the machine model in its file and as it is measured."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttlib
from ttlib.planning import machine_file
from ttlib.planning.candidates import Candidate
from ttlib.planning.kernels import Copy, Product
from ttlib.planning.machine import BUILT_IN, LENGTHS, RATE_TABLE_SHAPE, TRANSFERS, WIDTHS, MachineModel, Overhead
from ttlib.planning.machine_file import default_path, read_model, write_model

SHAPE = (8, 8, 12, 8, 8)


@pytest.fixture(autouse=True)
def path(monkeypatch, tmp_path):
    """The file of the machine model, which is not there yet."""
    path = tmp_path / "machine.json"
    monkeypatch.setenv("TTLIB_MACHINE", str(path))
    machine_file.forget()
    yield path
    machine_file.forget()


def plan(shape=SHAPE, split=3, ranks=5, tokens=128, **options):
    return ttlib.plan(shape, split=split, ranks=ranks, tokens=tokens, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shape": ()}, ttlib.ShapeError, "at least one mode"),
        ({"shape": (8, 0, 3)}, ttlib.ShapeError, "mode 1 of shape must be an integer >= 1, got 0"),
        ({"shape": (8.0, 8, 3)}, ttlib.ShapeError, "mode 0 of shape"),
        ({"shape": 64}, ttlib.ShapeError, "shape must be a list"),
        ({"split": 0}, ttlib.ShapeError, "split must be an integer >= 1, got 0"),
        ({"split": 5}, ttlib.ShapeError, "split 5 leaves no output mode .* append a mode of 1"),
        ({"split": "3"}, ttlib.ShapeError, "split must be"),
        ({"tokens": -1}, ttlib.ShapeError, "tokens must be an integer >= 0, got -1"),
        ({"tokens": 1.5}, ttlib.ShapeError, "tokens must be"),
        ({"tokens": True}, ttlib.ShapeError, "tokens must be"),
        ({"ranks": 0}, ttlib.RankError, "ranks must be integers >= 1"),
        ({"ranks": [5, 5]}, ttlib.RankError, "has 2 entries"),
        ({"ranks": [2, 5, 5, 5, 5, 1]}, ttlib.RankError, "must start and end with 1"),
        ({"dtype": "int8"}, ttlib.BackendError, "'int8' is none that cores have: choose one of float16"),
        ({"dtype": torch.int32}, ttlib.BackendError, "choose one of"),
        ({"dtype": None}, ttlib.BackendError, "choose one of"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, error, message):
    plan()  # what is cached must not let anything pass
    with pytest.raises(error, match=message):
        plan(**arguments)


def arrays(convert=np.asarray, dtype="float64"):
    cores = [convert(np.ones(shape, dtype)) for shape in plan().network.core_shapes]
    return cores, convert(np.ones((2, 768), dtype))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c, x: (c[:-1], x), ttlib.ShapeError, "for 5 cores, got 4"),
        (
            lambda c, x: ([c[0][:, :, :4], *c[1:]], x),
            ttlib.ShapeError,
            r"core 0 has shape \(1, 8, 4\), the plan is for",
        ),
        (lambda c, x: ([*c[:4], c[4][:, :, 0]], x), ttlib.ShapeError, r"core 4 has shape \(5, 8\)"),
        (lambda c, x: (c, x[:, 1:]), ttlib.ShapeError, r"x has shape \(2, 767\): its last axis must have the 768"),
        (lambda c, x: (c, x[0, 0]), ttlib.ShapeError, r"x has shape \(\)"),
        (lambda c, x: (c, x.astype("float32")), ttlib.BackendError, "core 0 is numpy float64 .* x is numpy float32"),
        (lambda c, x: (c, x.astype("int64")), ttlib.BackendError, "x is numpy int64 .* floating dtype"),
        (lambda c, x: (c, torch.from_numpy(x)), ttlib.BackendError, "arrays of one library"),
        (lambda c, x: (c, x.tolist()), ttlib.BackendError, "arrays of one library"),
    ],
)
def test_operands_that_are_not_those_of_the_plan_are_refused(change, error, message):
    cores, x = arrays()
    with pytest.raises(error, match=message):
        plan().execute(*change(cores, x))


def test_cores_on_another_device_are_refused():
    cores, x = arrays(torch.from_numpy)
    with pytest.raises(ttlib.BackendError, match="core 2 is torch float64 on meta, x is torch float64 on cpu"):
        plan().execute([*cores[:2], cores[2].to("meta"), *cores[3:]], x)


def test_a_strategy_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ttlib.ShapeError, match="'quickest' does not exist: choose one of 'reconstruct', 'factors'"):
        dataclasses.replace(plan(), strategy="quickest")


def test_a_plan_is_made_once_however_it_is_asked_for():
    first = plan()
    assert first is plan(list(SHAPE), ranks=[5, 5, 5, 5], dtype=torch.float32)
    assert first is plan(np.array(SHAPE), ranks=(1, 5, 5, 5, 5, 1), dtype=np.float32, tokens=np.int64(128))
    assert first is not plan(tokens=129)
    assert first is not plan(training=True)
    assert first is not plan(dtype="float64")


def test_ranks_are_taken_as_given():
    assert plan((2, 2), split=1, ranks=9).network.ranks == (1, 9, 1)


def test_training_adds_the_gradients_of_every_operand():
    forward, both = plan(), plan(training=True)
    for one, other in zip(forward.candidates, both.candidates, strict=True):
        if one.path == other.path:
            assert other.flops == 3 * one.flops  # two products of the same sides for each
        assert one.saved_elements == 0 < other.saved_elements


def test_the_pick_is_the_fastest_by_the_model_or_a_plainer_one_as_fast():
    for tokens in (0, 1, 50, 3000):
        for ranks in (1, 7, 64):
            for training in (False, True):
                made = plan((8, 8, 8, 8), split=2, ranks=ranks, tokens=tokens, training=training)
                least = min(candidate.seconds for candidate in made.candidates)
                assert least <= made.pick.seconds <= 1.04 * least


def test_the_model_decides(path):
    # Where a kernel costs nothing, few FLOPs win; where arithmetic costs nothing, few kernels.
    free = Overhead(call=1e-9, kernel=1e-12)
    write_model(path, dataclasses.replace(BUILT_IN, library="numpy", inference=free))
    machine_file.forget()
    assert plan((8, 8, 8, 8), split=2, ranks=64, tokens=1).strategy in ("cores", "tree")
    assert plan((8, 8, 8, 8), split=2, ranks=64, tokens=4096).strategy == "reconstruct"
    assert plan(tokens=4096).strategy == "factors"
    dear = Overhead(call=1.0, kernel=1.0)
    write_model(path, dataclasses.replace(BUILT_IN, library="numpy", inference=dear))
    machine_file.forget()
    made = plan((8, 8, 8, 8), split=2, ranks=64, tokens=4096)
    assert len(made.pick.kernels) == min(len(candidate.kernels) for candidate in made.candidates)


def test_a_machine_that_hates_a_layout_gets_another_one(path):
    # Thin products with a straight right matrix at a hundredth of the speed: U is written out transposed.
    def spoil(tables):
        m, k, n = tables
        slow = tuple(rate / 100 for rate in n[0])
        return m, k, (slow, n[1], slow, n[3])

    before = plan(tokens=2048)
    rates = {dtype: tuple(map(spoil, table)) for dtype, table in BUILT_IN.rates.items()}
    write_model(path, dataclasses.replace(BUILT_IN, library="numpy", rates=rates))
    machine_file.forget()
    after = plan(tokens=2048)

    def large(made):
        factors = dataclasses.replace(made, strategy="factors").pick
        return [k for k in factors.kernels if isinstance(k, Product) and 2048 in (k.m, k.n) and 5 in (k.m, k.n)]

    assert any(kernel.n == 5 and not kernel.right_transposed for kernel in large(before))
    assert not any(kernel.n == 5 and not kernel.right_transposed for kernel in large(after))


def test_explain_prints_one_line_a_strategy_and_marks_the_pick():
    made = plan(training=True)
    text = made.explain()
    assert "W 768 x 64" in text
    assert "128 token(s), float32, forward and backward; machine model: built-in" in text
    for candidate in made.candidates:
        (line,) = (line for line in text.splitlines()[:-1] if line.startswith(candidate.strategy))
        assert f"{candidate.flops:.3e}" in line
        assert f"{candidate.bytes_moved:.3e}" in line
        assert f" {len(candidate.kernels)} " in line
        assert f" {candidate.program.peak_elements:,} " in line
        assert f" {candidate.saved_elements:,} " in line
        assert ("<- picked" in line) == (candidate.strategy == made.strategy)
    assert text.splitlines()[-1].startswith(f"{made.strategy} is ")
    assert "<- picked" in dataclasses.replace(made, strategy="cores").explain().splitlines()[-4]
    assert len(repr(made)) < 300


def test_explain_writes_times_in_the_unit_that_suits_them():
    for tokens, unit in [(1, "us"), (1 << 13, "ms"), (1 << 27, "s")]:
        made = plan(tokens=tokens)
        (line,) = (line for line in made.explain().splitlines()[:-1] if line.startswith("reconstruct"))
        assert re.search(rf" \d+(\.\d+)? {unit}( |$)", line)


def test_bytes_follow_the_dtype():
    sizes = {name: plan(dtype=name).candidates[0].bytes_moved for name in ("bfloat16", "float32", "complex128")}
    assert sizes["float32"] == 2 * sizes["bfloat16"]
    assert sizes["complex128"] == 4 * sizes["float32"]


sides = st.integers(0, 5000)


@given(sides, sides, sides, st.booleans(), st.booleans(), st.sampled_from(["float16", "float32", "complex128"]))
def test_a_prediction_is_at_least_the_overhead_and_grows_with_the_work(m, k, n, left, right, dtype):
    product = Product(m, k, n, left, right)
    inference, training = (BUILT_IN.seconds(product, dtype=dtype, training=flag) for flag in (False, True))
    assert inference >= BUILT_IN.inference.kernel
    assert math.isclose(training - inference, BUILT_IN.training.kernel - BUILT_IN.inference.kernel, abs_tol=1e-9)
    larger = BUILT_IN.seconds(Product(2 * m, 2 * k, 2 * n, left, right), dtype=dtype, training=False)
    assert larger >= inference
    if 0 in (m, k, n):
        assert product.flops == 0


def test_rates_and_bandwidths_are_the_measured_ones_at_the_measured_sizes():
    table = tuple(
        tuple(tuple(tuple(1e9 + 1e6 * (1000 * a + 100 * b + 10 * c + d) for d in range(6)) for c in range(4)) for b in (0, 0, 0))
        for a in range(2)
    )  # fmt: skip
    model = dataclasses.replace(BUILT_IN, rates={"float32": table, "float64": table})
    for a, length in enumerate(LENGTHS):
        for d, width in enumerate(WIDTHS):
            for c, (left, right) in enumerate([(False, False), (False, True), (True, False), (True, True)]):
                product = Product(width, length, length, left, right)
                assert math.isclose(model.rate(product, "float32"), table[a][0][c][d], rel_tol=1e-12)
                assert math.isclose(model.rate(product, "complex64"), table[a][0][c][d] / 4, rel_tol=1e-12)
    for size, speed in zip(TRANSFERS, BUILT_IN.copying, strict=True):
        seconds = BUILT_IN.seconds(Copy(size // 8), dtype="float32", training=False)
        assert math.isclose(seconds, BUILT_IN.inference.kernel + size / speed, rel_tol=1e-12)


@pytest.fixture(scope="module", params=["numpy", "torch"])
def measured(request, tmp_path_factory):
    """A model measured once, and the file that it was stored in."""
    path = tmp_path_factory.mktemp("calibration") / "folder" / "machine.json"
    model = ttlib.calibrate(path, like=None if request.param == "numpy" else torch.zeros(()))
    assert model.library == request.param
    return model, path


def test_calibration_measures_and_stores_what_it_returns(measured, capsys):
    model, path = measured
    assert contents(read_model(path)) == contents(model)
    assert set(model.rates) == {"float32", "float64"} | ({"bfloat16"} if model.library == "torch" else set())
    for table in model.rates.values():
        assert np.shape(table) == RATE_TABLE_SHAPE
        assert np.min(table) > 0
    assert len(model.streaming) == len(model.copying) == len(TRANSFERS)
    assert min(*model.streaming, *model.copying, model.inference.call, model.inference.kernel) > 0
    if model.library == "numpy":
        assert model.training == BUILT_IN.training  # numpy has no gradients to time
    assert capsys.readouterr().out == ""


def contents(model):
    return {field.name: getattr(model, field.name) for field in dataclasses.fields(MachineModel)}


def test_plans_follow_the_file_and_a_new_calibration(path, measured, monkeypatch):
    model, stored = measured
    assert "machine model: built-in" in plan().explain()
    path.write_bytes(stored.read_bytes())
    assert "machine model: built-in" in plan().explain()  # read once …
    monkeypatch.setattr("ttlib.planning.calibration.measure", lambda like: model)
    ttlib.calibrate()  # … and again after this, which writes where plans look
    assert f"machine model: {model.library}" in plan().explain()
    assert contents(read_model(path)) == contents(model)
    monkeypatch.setenv("TTLIB_MACHINE", str(path.with_name("other.json")))
    assert "machine model: built-in" in plan().explain()


def test_the_file_is_in_the_users_folder_for_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("TTLIB_MACHINE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_path() == tmp_path / "cache" / "ttlib" / "machine.json"
    for ignored in ("", "relative/path"):  # as the specification asks
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_path() == tmp_path / "home" / ".cache" / "ttlib" / "machine.json"
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_path() == tmp_path / "home" / "Library" / "Caches" / "ttlib" / "machine.json"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert default_path() == tmp_path / "local" / "ttlib" / "machine.json"


def test_a_user_without_a_home_has_the_built_in_model(monkeypatch):
    def homeless():
        msg = "Could not determine home directory."
        raise RuntimeError(msg)

    monkeypatch.delenv("TTLIB_MACHINE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert "built-in" in plan().explain()


def damaged(change):
    content = {"format": "ttlib machine model", "version": 1, **dataclasses.asdict(BUILT_IN), "library": "numpy"}
    content = json.loads(json.dumps(content))
    change(content)
    return json.dumps(content)


DAMAGES = {
    "not JSON": "{",
    "not text": b"\xff\xfe\x00",
    "empty": "",
    "too deep": "[" * 100_000,
    "a list": "[]",
    "other format": damaged(lambda c: c.update(format="something")),
    "newer version": damaged(lambda c: c.update(version=2)),
    "no version": damaged(lambda c: c.pop("version")),
    "no rates": damaged(lambda c: c.pop("rates")),
    "no float32": damaged(lambda c: c["rates"].pop("float32")),
    "unknown dtype": damaged(lambda c: c["rates"].update(int8=c["rates"]["float32"])),
    "short table": damaged(lambda c: c["rates"]["float32"].pop()),
    "short row": damaged(lambda c: c["rates"]["float32"][0][0][0].pop()),
    "text in table": damaged(lambda c: c["rates"]["float32"][0][0][0].__setitem__(0, "fast")),
    "zero rate": damaged(lambda c: c["rates"]["float32"][0][0][0].__setitem__(0, 0)),
    "negative overhead": damaged(lambda c: c["inference"].update(kernel=-1)),
    "a truth value": damaged(lambda c: c["inference"].update(kernel=True)),
    "NaN": damaged(lambda c: c["copying"].__setitem__(0, math.nan)),
    "infinity": damaged(lambda c: c["streaming"].__setitem__(0, math.inf)),
    "huge": damaged(lambda c: c["streaming"].__setitem__(0, 10**400)),
    "no call": damaged(lambda c: c["training"].pop("call")),
    "no name": damaged(lambda c: c.update(library="<script>")),
    "cut off": damaged(lambda c: None)[:-20],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_file_is_named_with_the_remedy(path, damage):
    content = DAMAGES[damage]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ttlib.TTFileError, match="cannot be used") as caught:
        plan()
    assert str(path) in str(caught.value)
    assert "delete it, or measure this machine again with ttlib.calibrate()" in str(caught.value)
    path.unlink()
    assert "built-in" in plan().explain()  # the error was not remembered


def test_the_undamaged_file_is_read(path):
    path.write_text(damaged(lambda c: None))
    assert "machine model: numpy" in plan().explain()


def test_a_folder_in_place_of_the_file_is_named(path):
    path.mkdir()
    with pytest.raises(ttlib.TTFileError, match=re.escape(str(path))):
        plan()


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path, monkeypatch):
    monkeypatch.setattr("ttlib.planning.calibration.measure", lambda like: BUILT_IN)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        ttlib.calibrate(tmp_path / "file" / "machine.json")


def test_candidates_are_values():
    assert isinstance(plan().pick, Candidate)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan().strategy = "cores"
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan().pick.strategy = "cores"

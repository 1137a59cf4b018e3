"""The console script `ttlib`: its numbers are those of the Python API, and every mistake is one line."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from typer.testing import CliRunner

import ttlib
from ttlib.checkpoint import LocalEngine, analyze, compress
from ttlib.cli import app
from ttlib.cli.application import CommandError
from ttlib.cli.integers import parse_ranks, parse_shape, write_ranks, write_shape
from ttlib.cli.printing import print_table
from ttlib.cli.tensor_files import list_tensors, read_tensor
from ttlib.errors import TTFileError

COMMANDS = [
    ["shapes"],
    ["count"],
    ["plan"],
    ["decompose"],
    ["inspect"],
    ["analyze"],
    ["compress"],
    ["decompress"],
    ["plot", "spectrum"],
    ["plot", "ranks"],
    ["plot", "tree"],
    ["plot", "pareto"],
    ["plot", "heat-map"],
]
PLAN = ["8x8x12x8x8", "--split", 3, "--ranks", 5, "--tokens", 2048]
rng = np.random.default_rng(0)


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def read(*arguments):
    return json.loads(invoke(*arguments, "--json").stdout)


def refusal(*arguments):
    """What a command says of a mistake: one line on stderr, nothing on stdout."""
    result = invoke(*arguments, code=2)
    assert result.stdout == ""
    assert re.fullmatch(r"error: .+\n", result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def weight(tmp_path):
    path = tmp_path / "w.npy"
    np.save(path, rng.standard_normal((24, 20)).astype("f4"))
    return path


@pytest.fixture
def train(tmp_path):
    path = tmp_path / "train.safetensors"
    ttlib.save(path, ttlib.random((4, 5, 6), ranks=3, seed=0))
    return path


def rows_of(table):
    """The cells of a printed table, without titles and rule."""
    return [line.split() for line in table.splitlines()[2:]]


# Integers


def test_shapes_prints_what_search_shapes_finds():
    expected = ttlib.search_shapes(768, 64, ranks=5, order=5, top=4)
    options = ["shapes", 768, 64, "--ranks", 5, "--order", 5, "--top", 4]
    found = read(*options)["candidates"]
    assert [tuple(own["shape"]) for own in found] == [own.shape for own in expected]
    assert [own["parameters"] for own in found] == [own.parameters for own in expected]
    assert found[0]["compression"] == pytest.approx(expected[0].compression)
    first = rows_of(invoke(*options).stdout)[0]
    assert parse_shape(first[0]) == expected[0].shape
    assert parse_ranks(first[1]) == expected[0].ranks
    assert first[2:] == [str(expected[0].split), str(expected[0].parameters), f"{expected[0].compression:.1f}x"]


def test_shapes_says_what_stays_one_mode():
    assert "rows: 1021 is prime and stays one mode" in invoke("shapes", 1021, 8, "--ranks", 5).stdout


@settings(max_examples=15)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 50))
def test_count_is_that_of_the_cores(shape, rank):
    found = read("count", "x".join(map(str, shape)), "--ranks", rank)
    inner = [rank] * (len(shape) - 1)
    assert found["ranks"] == [1, *inner, 1]
    assert found["parameters"] == sum(np.array([1, *inner]) * np.array(shape) * np.array([*inner, 1]))
    assert found["dense"] == np.prod(shape, dtype=object)
    unfoldings = [min(np.prod(shape[:k]), np.prod(shape[k:])) for k in range(len(shape) + 1)]
    assert found["full_ranks"] == unfoldings
    assert tuple(found["kept_ranks"]) == ttlib.clip_ranks(shape, rank)


def test_count_in_words():
    text = invoke("count", "8,8,12,8,8", "--ranks", "5,5,5,5").stdout
    assert "shape        8x8x12x8x8\n" in text
    assert "parameters   780\n" in text
    assert "kept" not in text
    assert "kept ranks   1,2,1" in invoke("count", "2x3", "--ranks", 9).stdout


def test_numbers_that_no_double_holds_are_readable_and_null_in_json():
    shape = "x".join(["10"] * 5000)  # more digits than Python is willing to print
    assert "10^5000.0" in invoke("count", shape, "--ranks", 2).stdout
    found = read("count", shape, "--ranks", 2)
    assert found["dense"] is found["compression"] is None
    assert found["parameters"] == ttlib.count_parameters([10] * 5000, ranks=2)


@pytest.mark.parametrize("options", [[], ["--training"], ["--dtype", "bfloat16"]])
def test_plan_is_that_of_the_library(options):
    expected = ttlib.plan(
        [8, 8, 12, 8, 8],
        split=3,
        ranks=5,
        tokens=2048,
        training="--training" in options,
        dtype="bfloat16" if "--dtype" in options else "float32",
    )
    assert invoke("plan", *PLAN, *options).stdout == expected.explain() + "\n"
    found = read("plan", *PLAN, *options)
    assert found["strategy"] == expected.strategy
    assert [own["flops"] for own in found["candidates"]] == [own.flops for own in expected.candidates]
    assert found["training"] == expected.pick.training


@given(st.lists(st.integers(1, 10**18 - 1), min_size=1))
def test_shapes_and_ranks_are_read_as_they_are_written(numbers):
    assert parse_shape(write_shape(numbers)) == parse_shape(write_ranks(numbers)) == tuple(numbers)
    assert parse_ranks(write_ranks(numbers)) == (tuple(numbers) if len(numbers) > 1 else numbers[0])


# Files


@pytest.mark.parametrize(
    "options", [["--ranks", "3"], ["--eps", "0.4"], ["--parameters", "90"], ["--driver", "lapack"]]
)
def test_decompose_saves_a_train_with_the_error_it_states(weight, tmp_path, options):
    output = tmp_path / "folder" / "out.safetensors"
    found = read("decompose", weight, "--shape", "4x6x4x5", *options, "--output", output)
    dense, train = np.load(weight), ttlib.load(output)
    error = np.linalg.norm(dense - train.to_matrix(24, 20)) / np.linalg.norm(dense)
    assert found["relative_error"] == pytest.approx(error, abs=1e-6)
    assert tuple(found["ranks"]) == train.ranks
    assert found["parameters"] == train.parameters
    assert found["dtype"] == "float32"
    text = invoke("decompose", weight, "--shape", "4x6x4x5", *options, "--output", output, "--overwrite").stdout
    assert repr(train) in text
    assert f"relative error {found['relative_error']:.3e}" in text


@pytest.mark.parametrize("prepare", [lambda w: w.astype(">f8"), np.asfortranarray, lambda w: (9 * w).astype("i2")])
def test_decompose_reads_any_layout(tmp_path, prepare):
    dense = prepare(rng.standard_normal((12, 10)))
    np.save(tmp_path / "w.npy", dense)
    invoke("decompose", tmp_path / "w.npy", "--shape", "3x4x10", "--output", tmp_path / "out")
    np.testing.assert_allclose(ttlib.load(tmp_path / "out").to_matrix(12, 10), dense, atol=1e-10)
    assert np.array_equal(np.load(tmp_path / "w.npy"), dense)


def test_decompose_takes_one_tensor_of_many(tmp_path):
    tensors = {"a.weight": rng.standard_normal((6, 8)), "b.weight": rng.standard_normal((6, 8))}
    save_file(tensors, path := tmp_path / "m.safetensors")
    invoke("decompose", path, "--tensor", "b.weight", "--output", tmp_path / "out")
    np.testing.assert_allclose(ttlib.load(tmp_path / "out").to_tensor(), tensors["b.weight"])
    assert "choose one by --tensor: 'a.weight', 'b.weight'" in refusal("decompose", path, "--output", tmp_path / "new")
    wrong = refusal("decompose", path, "--tensor", "b.weigh", "--output", tmp_path / "new")
    assert "no tensor 'b.weigh'" in wrong
    assert "'b.weight'" in wrong
    save_file({f"t{k}": np.zeros(2) for k in range(30)}, path)
    assert "and 22 more" in refusal("decompose", path, "--output", tmp_path / "new")
    save_file({"only": tensors["a.weight"]}, path)
    invoke("decompose", path, "--output", tmp_path / "new")


def test_an_output_is_replaced_only_when_asked(weight, train, tmp_path):
    before = train.read_bytes()
    assert "--overwrite" in refusal("decompose", weight, "--output", train)
    assert "--overwrite" in refusal("plot", "tree", *PLAN, "--output", an_old_picture(tmp_path))
    assert train.read_bytes() == before
    assert "the file that is read" in refusal("decompose", weight, "--output", weight, "--overwrite")
    assert "is a folder" in refusal("decompose", weight, "--output", tmp_path, "--overwrite")
    invoke("decompose", weight, "--output", train, "--overwrite")
    assert ttlib.load(train).shape == (24, 20)


def an_old_picture(folder):
    (picture := folder / "there.png").write_bytes(b"old")
    return picture


def test_inspect_tells_what_a_train_is(train):
    expected, found = ttlib.load(train), read("inspect", train)
    assert (found["kind"], tuple(found["shape"]), found["dtype"]) == ("tensor_train", (4, 5, 6), "float64")
    assert tuple(found["ranks"]) == expected.ranks
    assert found["full_ranks"] == [1, 4, 6, 1]
    assert found["parameters"] == expected.parameters
    assert found["norm"] == pytest.approx(np.linalg.norm(expected.to_tensor()))
    text = invoke("inspect", train).stdout
    assert "shape        4x5x6\n" in text
    assert rows_of(text[text.index("bond") :]) == [["1", "3", "4", "75.0%"], ["2", "3", "6", "50.0%"]]


def test_inspect_of_other_trains(tmp_path):
    import torch

    ttlib.save(path := tmp_path / "tt", ttlib.eye((2, 3, 4)))
    found = read("inspect", path)
    assert (found["kind"], found["row_shape"], found["norm"]) == ("tt_matrix", [2, 3, 4], pytest.approx(24**0.5))
    assert "col shape    2x3x4" in invoke("inspect", path).stdout
    ttlib.save(path, ttlib.ones((10,) * 700))  # a norm of 10^350
    assert read("inspect", path)["norm"] is None
    assert "norm         exp(805.905)\n" in invoke("inspect", path).stdout
    ttlib.save(path, ttlib.ones((4, 5)).to(like=torch.zeros(1, dtype=torch.bfloat16)))
    assert read("inspect", path)["dtype"] == "bfloat16"
    assert "numpy has no bfloat16" in invoke("inspect", path).stdout
    ttlib.save(path, ttlib.zeros((4, 5)))
    assert (read("inspect", path)["norm"], read("inspect", path)["log_norm"]) == (0.0, None)


def test_inspect_lists_tensors_by_the_header(tmp_path, weight):
    import torch
    from safetensors.torch import save_file as save_torch

    tensors = {
        "a[red].weight": torch.zeros(3, 4, dtype=torch.bfloat16),
        "b\x1b[31m": torch.zeros(7),
        "c": torch.ones(()),
    }
    save_torch(tensors, path := tmp_path / "m.safetensors")
    found = read("inspect", path)
    assert {own["name"]: (own["dtype"], own["shape"]) for own in found["tensors"]} == {
        "a[red].weight": ("BF16", [3, 4]),
        "b\x1b[31m": ("F32", [7]),
        "c": ("F32", []),
    }
    text = invoke("inspect", path).stdout
    assert ["a[red].weight", "BF16", "3x4", "12"] in rows_of(text)
    assert "\x1b" not in text
    assert "3 tensor(s), 20 parameters" in text
    invoke("decompose", path, "--tensor", "a[red].weight", "--output", tmp_path / "out")
    assert ttlib.load(tmp_path / "out").shape == (3, 4)
    assert read("inspect", weight)["tensors"] == [
        {"name": None, "dtype": "float32", "shape": [24, 20], "parameters": 480}
    ]


def test_a_large_npy_file_is_inspected_without_reading_it(tmp_path):
    with (tmp_path / "large.npy").open("wb") as file:  # a hole: it takes no room on the disk
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (2**20, 2**17)})
        file.truncate(file.tell() + 2**40)
    assert read("inspect", tmp_path / "large.npy")["parameters"] == 2**37


# Pictures


def test_pictures_are_files_of_the_asked_kind(weight, train, tmp_path):
    png, svg, pdf = (tmp_path / f"picture.{kind}" for kind in ("png", "svg", "pdf"))
    found = read("plot", "spectrum", weight, "--shape", "4x6x4x5", "--ranks", 2, "--output", png)
    unfolding = np.linalg.svd(np.load(weight), compute_uv=False)
    middle = [row for row in found["rows"] if row["bond"] == "bond 2"]
    np.testing.assert_allclose([row["value"] for row in middle], unfolding, rtol=1e-4)
    assert [row["kept"] for row in middle] == [number < 2 for number in range(20)]
    assert png.read_bytes().startswith(b"\x89PNG")
    assert invoke("plot", "ranks", train, "--output", svg).stdout == f"wrote {svg}\n"
    assert b"<svg" in svg.read_bytes()
    invoke("plot", "tree", *PLAN, "--output", pdf)
    assert pdf.read_bytes().startswith(b"%PDF")
    invoke("plot", "spectrum", train, "--eps", 0.1, "--output", png, "--overwrite")
    assert "got --shape" in refusal("plot", "spectrum", train, "--shape", "4x30", "--output", tmp_path / "new.png")
    assert ".png, .svg, .pdf" in refusal("plot", "ranks", train, "--output", tmp_path / "picture.jpg")
    assert sorted(own.suffix for own in tmp_path.glob("*picture*")) == [".pdf", ".png", ".svg"]


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["shapes", 768, 64], "'--ranks'"),
        (["shapes", "a", 64, "--ranks", 5], "integer"),
        (["shapes", 0, 64, "--ranks", 5], "rows must be an integer >= 1, got 0"),
        (["shapes", 8, 8, "--ranks", 0], "ranks must be integers >= 1, got 0"),
        (["shapes", 8, 8, "--ranks", 2, "--order", 1], "order must be an integer >= 2, got 1"),
        (["count", "8x8", "--ranks", "a"], "ranks are integers, got 'a'"),
        (["count", "8x8", "--ranks", "2.5"], "got '2.5'"),
        (["count", "8x8", "--ranks", "1,2"], "has 2 entries"),
        (["count", "8xx8", "--ranks", 2], "got '8xx8'"),
        (["count", "", "--ranks", 2], "got ''"),
        (["count", "8x0", "--ranks", 2], "mode 1 of shape must be an integer >= 1, got 0"),
        (["count", "8x" + "9" * 5000, "--ranks", 2], "a shape is written as integers"),
        (["plan", "8x8", "--split", 2, "--ranks", 2, "--tokens", 4], "split 2 leaves no output mode"),
        (["plan", "8x8", "--split", 1, "--ranks", 2, "--tokens", 4, "--dtype", "int8"], "'int8'"),
        (["inspect", "no/such/file"], "'no/such/file' does not exist"),
        (["inspect", "tests"], "the folder holds no checkpoint"),
        (["nonsense"], "'nonsense'"),
        (["plot", "nonsense"], "'nonsense'"),
        (["shapes", "--nonsense"], "--nonsense"),
    ],
)
def test_a_mistake_is_one_line(arguments, fact):
    assert fact in refusal(*arguments)


def test_arrays_that_cannot_be_decomposed(tmp_path, weight):
    def refused(array, *options):
        np.save(tmp_path / "bad.npy", array, allow_pickle=True)
        return refusal("decompose", tmp_path / "bad.npy", *options, "--output", tmp_path / "out")

    assert "16 non-finite" in refused(np.full((4, 4), np.nan))
    assert "bool" in refused(np.zeros((4, 4), bool))
    assert "no entries" in refused(np.zeros((0, 4)))
    assert "at least one mode" in refused(np.zeros(()))
    assert "objects" in refused(np.array([{}], dtype=object))
    assert "(4, 4)" in refused(np.zeros((4, 5)), "--shape", "4x4")
    assert "'nope' does not exist" in refused(np.zeros((4, 5)), "--driver", "nope")
    assert "eps" in refused(np.zeros((4, 5)), "--eps", "nan")
    assert "no name, got --tensor 'x'" in refused(np.zeros((4, 5)), "--tensor", "x")
    assert not (tmp_path / "out").exists()


def test_no_pickle_is_ever_loaded(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    (path := tmp_path / "bomb.npy").write_bytes(pickle.dumps(Bomb()))
    assert "magic string" in refusal("inspect", path)
    np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)
    refusal("inspect", path)
    refusal("decompose", path, "--output", tmp_path / "out")
    assert not (tmp_path / "exploded").exists()


def _valid_files(folder):
    np.save(npy := folder / "w.npy", np.arange(12.0).reshape(3, 4))
    save_file({"a": np.arange(6.0), "b": np.zeros((2, 2), "f4")}, plain := folder / "m.safetensors")
    return npy, plain


@given(st.data())
def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    for path in _valid_files(folder):
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, min(len(content), 140) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
        with suppress(CommandError, TTFileError):
            for entry in list_tensors(path):
                read_tensor(path, entry.name)


def test_a_damaged_train_is_named(train):
    content = bytearray(train.read_bytes())
    content[-1] ^= 1
    train.write_bytes(content)
    assert f"cannot load {str(train)!r}: the SHA-256 of core 2" in refusal("inspect", train)
    train.write_bytes(content.replace(b'\\"tensor_train\\"', b'\\"tensor-train\\"'))
    assert f"cannot inspect {str(train)!r}: kind" in refusal("inspect", train)


def test_what_the_system_refuses_is_one_line(weight, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    assert "what was there is unchanged" in refusal("decompose", weight, "--output", tmp_path / "file" / "out")
    monkeypatch.setitem(sys.modules, "ttlib.plot", None)
    monkeypatch.delattr(ttlib, "plot", raising=False)
    assert "ttlib.plot" in refusal("plot", "tree", *PLAN, "--output", tmp_path / "tree.png")
    monkeypatch.setattr("ttlib.cli.sizes.search_shapes", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a bug is no mistake of the user: it keeps its traceback
        CliRunner().invoke(app, ["shapes", "8", "8", "--ranks", "2"], catch_exceptions=False)


# Help, and the process


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_ends_in_an_example_that_works(command, tmp_path, monkeypatch):
    *_, title, example = filter(None, map(str.strip, invoke(*command, "--help").stdout.splitlines()))
    assert title == "Example:"
    assert example.startswith(f"ttlib {' '.join(command)} ")
    monkeypatch.chdir(tmp_path)
    np.save("w.npy", np.ones((768, 64)))
    ttlib.save("w.safetensors", ttlib.ones((8, 8, 12)))
    save_file({"layers.0.weight": np.ones((24, 16))}, "model.safetensors")
    here = LocalEngine(workers=0)
    if command[0] == "plot":
        analyze("model.safetensors", output="analysis", engine=here)
    elif command == ["decompress"]:
        compress("model.safetensors", "small", eps=0.1, engine=here)
    overwrite = ["--overwrite"] if command == ["decompose"] else []
    invoke(*example.split()[1:], *overwrite)


def test_no_command_is_help_and_there_is_a_version():
    result = invoke()
    assert result.stderr == ""
    assert all(name in result.stdout for (name, *_) in COMMANDS)
    assert "spectrum" in invoke("plot").stdout
    assert invoke("--version").stdout == f"ttlib {ttlib.__version__}\n"


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], check=False, capture_output=True, text=True, timeout=120, **options
    )


def test_the_module_starts_without_what_help_does_not_need():
    heavy = ["matplotlib", "torch", "dask", "distributed", "pandas", "pyarrow"]
    code = f"import sys, ttlib.cli; print([name for name in {heavy} if name in sys.modules])"
    assert run("-c", code).stdout == "[]\n"
    without = "import sys; sys.modules['typer'] = None; from ttlib.__main__ import main; main()"
    result = run("-c", without)
    assert (result.returncode, result.stderr) == (
        1,
        "error: the command line needs the package typer; pip install 'ttlib[cli]'\n",
    )


def test_tables_in_a_pipe_are_whole_and_plain(tmp_path):
    name = "encoder." * 40
    save_file({name: np.zeros((2,) * 30, dtype=bool)[:0], "b": np.zeros(3)}, tmp_path / "m.safetensors")
    environment = os.environ | {"COLUMNS": "40", "PYTHONIOENCODING": "ascii"}
    result = run("-m", "ttlib", "inspect", str(tmp_path / "m.safetensors"), env=environment)
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert [row[0] for row in rows_of(result.stdout)] == ["b", name, "2"]


def test_a_narrow_terminal_folds_words_and_cuts_nothing(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(("name",), ("parameters",), [("encoder." * 9, "1,234,567")])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 30
    assert "".join(line.split()[0] for line in lines[2:]) == "encoder." * 9
    assert lines[2].split()[1] == "1,234,567"


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_leaves_early_sees_no_traceback(options):
    command = [sys.executable, "-m", "ttlib", "shapes", "768", "64", "--ranks", "5", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""

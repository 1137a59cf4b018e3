"""Lines of results: what is written is read, whatever a kill leaves behind, and other damage is named."""

import getpass
import json
import math
import multiprocessing
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.paper import results
from benchmarks.paper.cells import Budget, Cell, options
from benchmarks.paper.results import Line, ResultsError, append, environment, read

ROOT = Path(__file__).parents[2]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
CELLS = st.builds(
    Cell,
    model=st.text(),
    method=st.sampled_from(["lora-8", "loretta-adp"]),
    tasks=st.lists(st.text(), min_size=1, max_size=3).map(tuple),
    seed=st.integers(0),
    budget=st.builds(Budget, steps=st.integers(1), examples=st.none() | st.integers(1)),
    learning_rate=st.none() | st.floats(1e-9, 1),
    options=st.dictionaries(st.text(min_size=1), VALUES, max_size=3).map(lambda own: options(**own)),
    scored_on=st.sampled_from(["tune", "report"]),
)
OUTCOMES = st.dictionaries(
    st.text(), st.recursive(st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists)
)
LINES = st.builds(Line, CELLS, OUTCOMES, st.text(), st.dictionaries(st.text(), st.text(), max_size=2))


def line(seed=0, **outcome):
    cell = Cell("minilm", "lora-8", ("sst2",), seed, Budget(steps=5), 1e-3)
    return Line(cell, {"status": "finished", "scores": {"sst2": 0.5}} | outcome, "abc", {"python": "3"})


@settings(max_examples=25)  # each waits for the disk
@given(st.lists(LINES, max_size=4))
def test_what_is_written_is_read(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("results") / "new" / "small.jsonl"
    for own in lines:
        append(path, own)
    assert read(path) == {own.key: own for own in lines}


def test_a_line_names_its_key_for_readers(tmp_path):
    append(tmp_path / "r.jsonl", line())
    assert json.loads((tmp_path / "r.jsonl").read_text())["key"] == line().cell.key


def test_no_file_is_no_results(tmp_path):
    assert read(tmp_path / "none.jsonl") == {}


def test_numbers_that_are_not_finite_become_null(tmp_path):
    append(tmp_path / "r.jsonl", line(loss=math.nan, curve=[[0, math.inf, 0.5]], deep={"x": (-math.inf, 1.0)}))
    (own,) = read(tmp_path / "r.jsonl").values()
    assert (own.outcome["loss"], own.outcome["curve"], own.outcome["deep"]) == (
        None,
        [[0, None, 0.5]],
        {"x": [None, 1]},
    )


def test_the_last_of_equal_cells_wins(tmp_path):
    for loss in (1.0, 2.0):
        append(tmp_path / "r.jsonl", line(loss=loss))
    assert [own.outcome["loss"] for own in read(tmp_path / "r.jsonl").values()] == [2.0]


def test_a_line_torn_anywhere_is_left_out_and_cut_off(tmp_path):
    path = tmp_path / "r.jsonl"
    append(path, line(0))
    first = path.read_bytes()
    append(path, line(1))
    both = path.read_bytes()
    for end in {*range(len(first), len(both), 11), len(both) - 1}:
        path.write_bytes(both[:end])
        assert list(read(path)) == [line(0).key]
        append(path, line(1))
        assert path.read_bytes() == both


@pytest.mark.parametrize("tail", [b'{"key": "', bytes(4096)], ids=["text", "zeros of a power cut"])
def test_a_file_of_nothing_but_a_torn_line(tmp_path, tail):
    path = tmp_path / "r.jsonl"
    path.write_bytes(tail)
    assert read(path) == {}
    append(path, line())
    assert read(path) == {line().key: line()}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"<<<<<<< HEAD",
        b"[1, 2]",
        b"3",
        b'{"key": "0"}',
        b"\xff\xfe",
        json.dumps(line().to_json() | {"outcome": None}).encode(),
        json.dumps(line().to_json() | {"cell": line().cell.to_json() | {"colour": "red"}}).encode(),
    ],
)
def test_other_damage_is_named_with_its_place_and_remedy(tmp_path, damage):
    path = tmp_path / "r.jsonl"
    append(path, line(0))
    path.write_bytes(path.read_bytes() + damage + b"\n")
    append(path, line(1))
    with pytest.raises(ResultsError, match=r"r\.jsonl, line 2 is not a result .*take the line out"):
        read(path)


def test_what_json_has_no_words_for_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "r.jsonl"
    append(path, line())
    before = path.read_bytes()
    with pytest.raises(TypeError, match="set"):
        append(path, line(1, loss={1, 2}))
    assert path.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="limits of this kind are POSIX")
def test_a_full_disk_is_told_and_leaves_a_torn_line_at_worst(tmp_path):
    path = tmp_path / "r.jsonl"
    append(path, line(0))
    program = (
        "import resource, sys; from pathlib import Path; from tests.studies.test_results import append, line;"
        "path = Path(sys.argv[1]); room = path.stat().st_size + 20;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)); append(path, line(1))"
    )
    command = [sys.executable, "-c", program, path]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "took 20 of" in ended.stderr
    assert "make room" in ended.stderr
    assert list(read(path)) == [line(0).key]


def _append_many(path, first):
    for seed in range(first, first + 40):
        append(path, line(seed, losses=[[0, 0.5]] * 500))


def test_processes_may_append_at_the_same_time(tmp_path):
    path = tmp_path / "r.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append_many, args=(path, first)) for first in (0, 100, 200)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {own.cell.seed for own in read(path).values()} == {
        first + seed for first in (0, 100, 200) for seed in range(40)
    }


def test_the_environment_names_software_and_nobody():
    commit, versions = environment()
    assert {"python", "ttlib", "torch", "transformers", "peft", "cpus"} <= versions.keys()
    told = json.dumps([commit, versions])
    for private in (platform.node(), getpass.getuser(), str(Path.home()), str(ROOT)):
        assert private not in told
    json.loads(told)


def test_only_code_makes_a_commit_dirty(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_ROOT", tmp_path)
    for name, value in {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent), "GIT_CONFIG_GLOBAL": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    assert environment()[0] == "unknown"
    code = tmp_path / "benchmarks" / "paper" / "code.py"
    code.parent.mkdir(parents=True)
    code.write_text("one = 1\n")
    (tmp_path / "README.md").write_text("words")
    git = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e@e"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "m"]):
        subprocess.run([*git, *command], check=True)
    clean = environment()[0]
    assert len(clean) == 12
    append(code.parent / "results" / "small.jsonl", line())
    (tmp_path / "README.md").write_text("other words")
    assert environment()[0] == clean
    new = tmp_path / "ttlib" / "new.py"
    new.parent.mkdir()
    new.touch()
    assert environment()[0] == f"{clean}+dirty"
    new.unlink()
    code.write_text("one = 2\n")
    assert environment()[0] == f"{clean}+dirty"

"""`ttlib analyze`, `compress` and `decompress`: the same numbers as the library, and mistakes in one line."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.checkpoint.files import sharded_folder
from tests.checkpoint.test_analysis import HERE
from tests.checkpoint.test_compression import TENSORS
from ttlib.checkpoint import CheckpointAnalysis, analyze, open_checkpoint, read_archive
from ttlib.checkpoint.smallest import smallest
from ttlib.cli import app, checkpoints
from ttlib.cli.printing import write_compression

LOCAL = ("--workers", 0)


@pytest.fixture
def model(tmp_path):
    return sharded_folder(tmp_path / "model", TENSORS)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def stdout(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refusal(*arguments):
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_analyze_prints_what_the_library_finds(model, tmp_path):
    text = stdout("analyze", model, "--eps", "0.5,0.1", *LOCAL)
    found = analyze(model, eps=(0.5, 0.1), engine=HERE)
    for weight in found.weights:
        (line,) = [line.split() for line in text.splitlines() if line.startswith(weight.name)]
        assert line[1] == f"{weight.rows}x{weight.cols}"
        best = [
            max((at.compression for own in weight.shapes for at in own.at_eps if at.eps == eps), default=0)
            for eps in (0.5, 0.1)
        ]
        assert line[2:] == [write_compression(value) if value > 1 else "-" for value in best]
    assert json.loads(stdout("analyze", model, "--eps", "0.5,0.1", "--json", *LOCAL)) == json.loads(
        json.dumps(found.to_json())
    )


def test_analyze_writes_its_files_and_goes_on(model, tmp_path):
    out = tmp_path / "out"
    files = ("--output", out, "--table", out / "t.csv", "--html", out / "r.html")
    stdout("analyze", model, *files, *LOCAL)
    assert CheckpointAnalysis.load(out / "analysis.json") == analyze(model, engine=HERE)
    assert (out / "t.csv").read_text().startswith("name,rows,cols,")
    assert "<!DOCTYPE html>" in (out / "r.html").read_text()
    assert "exists" in refusal("analyze", model, "--output", out, *LOCAL)
    stdout("analyze", model, "--output", out, "--resume", *LOCAL)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_progress_is_for_terminals_alone(model):
    import pty

    command = [sys.executable, "-m", "ttlib", "analyze", str(model), "--workers", "0"]
    piped = subprocess.run(command, capture_output=True, check=True)
    assert piped.stderr == b""
    reader, terminal = pty.openpty()
    shown = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=terminal,
        check=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(terminal)
    told = os.read(reader, 1 << 20).decode()
    os.close(reader)
    assert shown.stdout == piped.stdout
    assert "analyse" in told
    assert "4/4" in told
    assert "kB" in told


def test_analyze_says_how_to_go_on_when_interrupted(model, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "analyze_checkpoint", interrupted)
    result = call("analyze", model, "--output", tmp_path / "out")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; the same command with --resume goes on where it was\n"


def test_compress_and_decompress(model, tmp_path):
    text = stdout("compress", model, tmp_path / "small", "--budget", "0.5x", *LOCAL)
    archive = read_archive(tmp_path / "small")
    assert f"kept        {archive.parameters / archive.parameters_before:.1%}" in text
    for name, weight in archive.weights.items():
        assert [name, "x".join(map(str, weight.modes))] in [line.split()[:2] for line in text.splitlines() if line]
    assert stdout("inspect", tmp_path / "small") == text
    assert (tmp_path / "small" / "trains" / "layers.0.up.weight.safetensors").exists()
    stdout("decompress", tmp_path / "small", tmp_path / "back")
    back = open_checkpoint(tmp_path / "back")
    for name, W in TENSORS.items():
        lost = archive.weights[name].relative_error if name in archive.weights else 0.0
        assert np.linalg.norm(back.array(name) - W) <= (lost + 1e-6) * np.linalg.norm(W)
    assert "exists" in refusal("decompress", tmp_path / "small", tmp_path / "back")
    assert json.loads(stdout("compress", model, tmp_path / "other", "--eps", 0.1, "--json", *LOCAL))["weights"]


def test_a_plan_first_and_its_compression_later(model, tmp_path):
    out = tmp_path / "out"
    stdout("compress", model, out, "--budget", "0.4x", "--plan-only", *LOCAL)
    assert not (out / "compressed.json").exists()
    stdout("compress", model, out, "--plan", out / "plan.json", *LOCAL)
    archive = read_archive(out)
    assert archive.parameters <= 0.4 * archive.parameters_before


def test_pictures_of_an_analysis(model, tmp_path):
    stdout("analyze", model, "--output", tmp_path, "--eps", "0.5,0.1", *LOCAL)
    analysis = tmp_path / "analysis.json"
    drawn = json.loads(stdout("plot", "heat-map", analysis, "--output", tmp_path / "map.svg", "--json"))["rows"]
    found = CheckpointAnalysis.load(analysis)
    assert {row["projection"] for row in drawn} == {"embed", "up", "noise"}
    assert max(row["smaller"] for row in drawn) == max(smallest(weight, 0.5).compression for weight in found.weights)
    rows = json.loads(stdout("plot", "pareto", analysis, "--output", tmp_path / "front.png", "--json"))["rows"]
    assert [row["error"] for row in rows] == sorted((row["error"] for row in rows), reverse=True)
    assert (tmp_path / "map.svg").read_text().startswith("<?xml")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    asked = ("plot", "heat-map", analysis, "--output", tmp_path / "new.svg", "--eps", 0.3)
    assert "made for the errors 0.5, 0.1, got 0.3" in refusal(*asked)
    assert "none.json" in refusal("plot", "pareto", tmp_path / "none.json", "--output", tmp_path / "new.svg")


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["analyze", "no-such-model"], "no checkpoint"),
        (["analyze", "MODEL", "--ranks", "four"], "--ranks is 'four'"),
        (["analyze", "MODEL", "--eps", "0.1,"], "--eps is '0.1,'"),
        (["analyze", "MODEL", "--eps", "3"], "3"),
        (["analyze", "MODEL", "--shapes", "0"], "shapes"),
        (["analyze", "MODEL", "--include", "x.*"], "no matrix of the checkpoint is called like x.*"),
        (["analyze", "MODEL", "--engine", "ray"], "--engine is 'ray'; give local or dask"),
        (["analyze", "MODEL", "--scheduler", "tcp://a:1"], "needs --engine dask"),
        (["analyze", "MODEL", "--engine", "dask", "--memory", "2"], "limits of its own"),
        (["analyze", "MODEL", "--workers", "-1"], "workers is -1"),
        (["analyze", "MODEL", "--resume"], "--resume needs the --output"),
        (["analyze", "MODEL", "--table", "TMP/t.xls", "--workers", "0"], ".csv or .parquet"),
        (["compress", "MODEL", "TMP/out"], "give one of budget"),
        (["compress", "MODEL", "TMP/out", "--budget", "half"], "--budget is 'half'"),
        (["compress", "MODEL", "TMP/out", "--budget", "0.001x", "--workers", "0"], "at the smallest ranks"),
        (["compress", "MODEL", "TMP/out", "--plan-only"], "--plan-only needs a --budget"),
        (["compress", "MODEL", "TMP/out", "--plan", "TMP/none.json"], "none.json"),
        (["decompress", "MODEL", "TMP/back"], "no compressed.json"),
    ],
)
def test_a_mistake_is_one_line(model, tmp_path, arguments, fact):
    arguments = [argument.replace("MODEL", str(model)).replace("TMP", str(tmp_path)) for argument in arguments]
    assert fact in refusal(*arguments)

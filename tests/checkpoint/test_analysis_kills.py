"""Processes that are killed in the middle of an analysis: nothing is lost, and the table is the same."""

import os
import random
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest

from tests.checkpoint.files import sharded_folder
from tests.checkpoint.test_analysis import HERE, table_of
from ttlib.checkpoint import analyze
from ttlib.checkpoint.engines import DaskEngine, LocalEngine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """24 weights in 4 shards, each of which takes a tenth of a second."""
    rng = np.random.default_rng(0)
    tensors = {f"layers.{k}.weight": rng.standard_normal((768, 640 + 16 * k)).astype(np.float32) for k in range(24)}
    return sharded_folder(tmp_path_factory.mktemp("kills") / "model", tensors, shards=4)


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    output = tmp_path_factory.mktemp("expected") / "out"
    assert len(analyze(model, output=output, engine=HERE).weights) == 24
    return table_of(output)


def workers():
    """The processes that run Python code for this one, however deep below it."""
    found = psutil.Process().children(recursive=True)
    return [each for each in found if any("spawn_main" in word for word in each.cmdline())]


class Killing:
    """An engine one of whose workers is killed when the second outcome is there."""

    def __init__(self, engine):
        self.engine = engine

    def run(self, function, tasks):
        for number, outcome in enumerate(self.engine.run(function, tasks)):
            if number == 1:
                os.kill(workers()[-1].pid, signal.SIGKILL)
            yield outcome


def test_a_killed_worker_of_this_machine(model, expected, tmp_path):
    found = analyze(model, output=tmp_path / "out", engine=Killing(LocalEngine(workers=2)))
    assert len(found.weights) == 24
    assert table_of(tmp_path / "out") == expected


def test_a_killed_worker_of_a_dask_cluster(model, expected, tmp_path):
    pytest.importorskip("distributed")
    found = analyze(model, output=tmp_path / "out", engine=Killing(DaskEngine(workers=2)))
    assert len(found.weights) == 24
    assert table_of(tmp_path / "out") == expected


def test_the_command_killed_at_ten_random_points_and_resumed(model, expected, tmp_path):
    command = [
        sys.executable,
        "-m",
        "ttlib",
        "analyze",
        str(model),
        "--output",
        str(tmp_path / "out"),
        "--workers",
        "2",
    ]
    generator, kills, lines = random.Random(0), 0, []  # noqa: S311
    journal = tmp_path / "out" / "journal.jsonl"
    while kills < 10:
        process = subprocess.Popen([*command, "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            process.wait(timeout=generator.uniform(0.8, 2.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        process.stderr.close()
        lines.append(len(journal.read_bytes().splitlines()) if journal.exists() else 0)
        if process.returncode == 0:  # done before ten kills: from the start again
            assert table_of(tmp_path / "out") == expected
            journal.unlink()
    subprocess.run([*command, "--resume"], check=True, capture_output=True, timeout=300)
    assert table_of(tmp_path / "out") == expected
    assert max(lines) > 1

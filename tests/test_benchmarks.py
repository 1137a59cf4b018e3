"""The benchmarks' machinery: once through on tiny sizes, where times mean nothing, and what it counts and measures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import data, networks
from benchmarks.memory import PeakMemory
from benchmarks.page import render
from benchmarks.records import Measure, Record, Target

ROOT = Path(__file__).parents[1]
SECTIONS = [
    "TT-SVD",
    "Growth",
    "Rounding",
    "Sums",
    "Bare layers, training",
    "Adapted layers, inference",
    "Training step",
]
# A suite with one peer of every fate
PROBE = """
import pytest

pytestmark = pytest.mark.quick


def bench_fates(race):
    record = race(
        table="Fates",
        case="one",
        ours=lambda: sum(range(100)),
        peers={
            "absent": None,
            "slower": lambda: sum(range(100_000)),
            "broken": lambda: 1 / 0,
            "nonsense": lambda: "no number",
        },
        rounds=1,
        error=lambda value: value / 4950 - 1,
    )
    record.speed_up("slower", 1e-3)
    record.speed_up("broken", 2)
    record.at_most("error", record.ours.error, -1)


def bench_fails(race):
    race(table="Fates", case="two", ours=lambda: [][0], peers={}, rounds=1)
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """The folder of a tiny run of all suites and the probe, beside a run of two threads that was there before."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "bench_probe.py").write_text(PROBE)
    old = {"environment": {"Python": "3"}, "records": [], "failed": [], "planning": None}
    (folder / "benchmarks.json").write_text(json.dumps({"2": old}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, ROOT / "benchmarks" / "run.py", "--scale=tiny", "--output", folder]
    run = subprocess.run(
        [*command, "-q", "--tb=short", folder / "bench_probe.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr  # bench_fails failed, and that is told
    assert (folder / "benchmarks.md").read_text() in run.stdout
    return folder


@pytest.fixture(scope="module")
def runs(output):
    return json.loads((output / "benchmarks.json").read_text())


@pytest.fixture(scope="module")
def records(runs):
    return [Record.from_json(value) for value in runs["1"]["records"]]


def test_every_suite_leaves_records_that_can_be_read_again(runs, records):
    assert set(runs) == {"1", "2"}
    assert {record.table for record in records} >= set(SECTIONS)
    assert [record.to_json() for record in records] == runs["1"]["records"]
    assert len({(record.table, record.case) for record in records}) == len(records)
    assert runs["1"]["environment"]["numpy"] == np.__version__


def test_ours_and_the_peers_are_measured(records):
    for record in records:
        assert record.ours.missing is None
        assert record.ours.seconds > 0
        assert record.ours.rounds >= 1
        for name, peer in record.peers.items():
            assert peer.missing or (peer.seconds > 0 and peer.ratio > 0), (record.case, name)


def test_errors_are_recorded(records):
    decompositions = [record for record in records if record.table == "TT-SVD"]
    assert decompositions
    for record in decompositions:
        assert 0 <= record.ours.error <= 1
        exact = record.peers["tensorly" if "tensorly" in record.peers else "torchTT"]
        if not exact.missing:
            assert record.ours.error == pytest.approx(exact.error, rel=0.02)


def test_a_peer_that_is_absent_or_fails_is_told_and_nothing_more(records):
    (fates,) = [record for record in records if record.table == "Fates"]
    assert fates.peers["absent"] == Measure(missing="not installed")
    assert fates.peers["broken"] == Measure(missing="failed: ZeroDivisionError: division by zero")
    assert fates.peers["nonsense"].missing.startswith("failed: TypeError")
    assert fates.peers["slower"].error == pytest.approx(4999950000 / 4950 - 1)
    assert [target.met for target in fates.targets] == [True, None, False]


def test_the_page_tells_all_of_it(output, records):
    page = (output / "benchmarks.md").read_text()
    assert page.index("## 1 thread\n") < page.index("## 2 threads\n")
    for record in records:
        (row,) = [
            line for line in page.splitlines() if line.startswith(f"| {record.case} |") and _in(record, page, line)
        ]
        assert row.count("**missed**") == sum(target.met is False for target in record.targets)
        assert row.count(" met") == sum(target.met is True for target in record.targets)
    assert "slower" in page
    assert "broken 0" not in page
    assert "broken: failed: ZeroDivisionError: division by zero" in page
    assert "**failed**; their rows are missing or incomplete: bench_fails." in page
    widths = {line.count("|") for line in page.split("### Fates")[1].split("\n\n")[2].splitlines()}
    assert len(widths) == 1


def _in(record, page, line):
    return line in page.split(f"### {record.table}\n")[1].split("\n### ")[0]


def test_a_run_that_never_began_leaves_what_is_there(tmp_path):
    (tmp_path / "benchmarks.json").write_text("{}")
    command = [sys.executable, ROOT / "benchmarks" / "run.py", "--scale=tiny", "--output", tmp_path, "--no-such-option"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 4
    assert [file.name for file in tmp_path.iterdir()] == ["benchmarks.json"]
    assert (tmp_path / "benchmarks.json").read_text() == "{}"


def test_a_page_of_no_runs_is_its_head():
    assert render({}).startswith("# Speed\n")


@pytest.mark.parametrize(
    ("measured", "bound", "met"),
    [(2.0, "least", True), (1.9, "least", False), (2.0, "most", True), (2.1, "most", False), (None, "most", None)],
)
def test_targets_know_whether_they_are_met(measured, bound, met):
    assert Target("x", measured, 2.0, bound).met is met


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is measured on Linux only")
@pytest.mark.parametrize("make", [np.ones, torch.ones])
def test_the_peak_of_memory_sees_numpy_and_torch_alike(make):
    doubles = 5_000_000
    for _ in range(2):  # the second time on memory that has been used before
        with PeakMemory() as peak:
            kept = make(doubles)
            del kept
        size = doubles * (8 if make is np.ones else 4)
        assert size <= peak.bytes + 2**20
        assert peak.bytes <= 1.2 * size + 2**21


def test_the_error_of_a_train_is_that_of_its_dense_form():
    modes = (3, 4, 5, 2)
    cores = data.decaying_cores(modes, rank=3, decay=0.5)
    left, right = data.halves([torch.from_numpy(core) for core in cores])
    dense = np.einsum("aib,bjc,ckd,dle->ijkl", *cores)
    np.testing.assert_allclose((left @ right).reshape(modes), dense, rtol=1e-12)
    assert data.relative_error(cores, dense) < 1e-14
    assert data.relative_error(cores, 2 * dense) == pytest.approx(0.5)


def test_decaying_tensors_decay_down_to_their_noise():
    tensor = data.decaying((16, 16, 16, 16), np.float64, decay=0.8, noise=1e-3)
    values = np.linalg.svd(tensor.reshape(256, 256), compute_uv=False)
    tails = np.sqrt(np.cumsum(values[::-1] ** 2)[::-1]) / np.linalg.norm(values)
    assert 0.8**15 < tails[10] < 0.8**5
    assert 3e-4 < tails[128] < 1e-3


def test_kept_bytes_and_kernels_of_two_products_are_as_counted_by_hand():
    x = torch.randn(6, 40, requires_grad=True)
    lora = networks.TwoProducts(40, 24)
    assert networks.saved_bytes(lora, x) == 6 * 8 * 4  # x A; x, A and B were there
    assert networks.kernels(lora, x) == (2, 4)  # two products, and two for the derivatives of each


def test_rebuilding_keeps_the_dense_matrix():
    x = torch.randn(6, 40, requires_grad=True)
    rebuilt = networks.Rebuilt(40, 24, (5, 8, 4, 6), 3)
    dense = torch.einsum("aib,bjc,ckd,dle->ijkl", *rebuilt.cores).reshape(40, 24)
    torch.testing.assert_close(rebuilt(x), x @ dense)
    assert networks.saved_bytes(rebuilt, x) >= 40 * 24 * 4

"""The Dask engine, over real clusters: what a lost worker, a lost scheduler and a wrong address do."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.checkpoint.engine_tasks import misbehave, square
from ttlib.checkpoint.engines import DaskEngine, LocalEngine, Outcome, Task
from ttlib.errors import BackendError

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore:Creating scratch directories is taking a surprisingly long time")


def spawned():
    return [process for process in psutil.Process().children(recursive=True) if "spawn_main" in str(process.cmdline())]


def test_nothing_to_do_starts_nothing(monkeypatch):
    monkeypatch.setattr(distributed, "Client", None)
    monkeypatch.setattr(distributed, "LocalCluster", None)
    assert list(DaskEngine().run(square, [])) == []


@pytest.mark.parametrize("settings", [{"scheduler": "tcp://a:1", "workers": 2}, {"workers": 0}])
def test_workers_that_cannot_be(settings):
    with pytest.raises(
        ValueError, match=r"workers is 2, but the cluster at tcp://a:1 has its own|workers is 0; give 1"
    ):
        DaskEngine(**settings)


def test_keys_are_checked_before_anything_starts():
    with pytest.raises(ValueError, match="two tasks have the key 'a'"):
        DaskEngine().run(square, [Task("a"), Task("a")])


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install ttlib\[dask\]"):
        DaskEngine()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_an_address_without_a_scheduler_is_named(address):
    engine = DaskEngine(address, timeout=0.5)
    with pytest.raises(BackendError, match=rf"no Dask scheduler answers at {address} .*: check the address.*--resume"):
        list(engine.run(square, [Task("a", (1,))]))


def test_a_cluster_that_cannot_start_is_told(monkeypatch):
    def broken(**settings):
        msg = "Nanny failed to start."
        raise RuntimeError(msg)

    monkeypatch.setattr(distributed, "LocalCluster", broken)
    with pytest.raises(BackendError, match=r"cannot start \(RuntimeError: Nanny failed to start\.\); call this from a"):
        list(DaskEngine().run(square, [Task("a", (1,))]))


def test_a_task_that_ends_every_worker_is_an_outcome():
    error = distributed.KilledWorker(("ttlib", 1), SimpleNamespace(address="tcp://a:1"), 3)

    def result():
        raise error

    outcome = DaskEngine()._outcome("a", SimpleNamespace(result=result))
    assert outcome == Outcome("a", None, "its workers ended, all 4 that tried it; is there enough memory?")


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tasks = [Task(f"{n:02d}", (n, 0.3), cost=n) for n in range(24)]
    outcomes = []
    for outcome in DaskEngine(workers=2).run(square, tasks):
        outcomes.append(outcome)
        if len(outcomes) == 2:
            os.kill(spawned()[0].pid, signal.SIGKILL)
    assert {outcome.key: outcome for outcome in outcomes} == {
        outcome.key: outcome
        for outcome in LocalEngine(workers=0).run(square, [Task(t.key, t.arguments[:1]) for t in tasks])
    }
    assert len(outcomes) == 24
    assert outcomes[0].key in {"22", "23"}
    assert spawned() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_goes_wrong_in_a_task_is_its_outcome(tmp_path):
    tasks = [Task(how, (how, str(tmp_path))) for how in ("raise", "nan", "die-once", "well")]
    found = {outcome.key: outcome for outcome in DaskEngine(workers=1).run(misbehave, tasks)}
    assert found["raise"].error == "LookupError: no such thing"
    assert "no such" in found["raise"].trace
    assert found["nan"].error.startswith("ValueError")
    assert {how for how, outcome in found.items() if outcome.result == {"how": how}} == {"die-once", "well"}


@pytest.mark.slow
def test_a_scheduler_that_is_gone_is_told(tmp_path):
    told = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1"]
    with subprocess.Popen([*command, "--no-dashboard", "--scheduler-file", told], stderr=subprocess.DEVNULL) as process:
        while not told.exists() or not told.read_text().endswith("}"):
            time.sleep(0.05)
        address = json.loads(told.read_text())["address"]
        threading.Timer(3, process.kill).start()  # it has no workers: the task waits
        with pytest.raises(BackendError, match=rf"the Dask scheduler at {address} is gone .*--resume"):
            list(DaskEngine(address).run(square, [Task("a", (1,))]))
    assert Path(told).exists()

"""The local engine, over real processes: order, memory, and every way in which a task, a worker or the run can end."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoint import engine_tasks
from tests.checkpoint.engine_tasks import HEADER, TWENTY, look_around, misbehave, note_times, square
from ttlib.checkpoint.engines import LocalEngine, Outcome, Task
from ttlib.checkpoint.engines.protocol import attempt, largest_first
from ttlib.checkpoint.engines.resources import available_memory, usable_processors
from ttlib.checkpoint.engines.worker import Killed, Worker
from ttlib.checkpoint.journal import read_journal
from ttlib.errors import BackendError

ROOT = Path(__file__).parents[2]


def by_key(outcomes):
    return {outcome.key: outcome for outcome in outcomes}


# What an engine is


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=9, unique_by=lambda pair: pair[0]))
def test_the_largest_is_first_and_the_order_is_always_the_same(pairs):
    tasks = [Task(str(key), cost=cost) for key, cost in pairs]
    ordered = largest_first(tasks)
    assert ordered == largest_first(reversed(tasks))
    assert sorted(ordered, key=lambda task: task.cost, reverse=True) == ordered
    assert {task.key for task in ordered} == {task.key for task in tasks}


def test_a_key_is_given_once():
    with pytest.raises(ValueError, match="two tasks have the key 'a': give each its own"):
        LocalEngine(workers=0).run(square, [Task("a", (1,)), Task("a", (2,))])


FATES = {
    "raise": "LookupError: no such thing",
    "no-json": "TypeError: Object of type set is not JSON serializable",
    "nan": "ValueError: Out of range float values are not JSON compliant",
    "list": "TypeError: the function returned [1], not a dict",
}


@pytest.mark.parametrize("how", FATES)
def test_whatever_goes_wrong_in_a_task_is_its_outcome(tmp_path, how):
    outcome = attempt(misbehave, Task("a", (how, tmp_path)))
    assert (outcome.key, outcome.result) == ("a", None)
    assert outcome.error.startswith(FATES[how])
    assert outcome.trace.startswith("Traceback")


def test_ctrl_c_is_not_the_outcome_of_a_task():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(interrupted, Task("a"))


# In this process


def test_without_workers_it_runs_here_one_by_one():
    begun = []

    def note(key):
        begun.append(key)
        return {"process": os.getpid()}

    outcomes = LocalEngine(workers=0).run(note, [Task("a", ("a",), cost=1), Task("b", ("b",), cost=2)])
    assert begun == []
    assert next(outcomes) == Outcome("b", {"process": os.getpid()})
    assert begun == ["b"]
    assert [outcome.key for outcome in outcomes] == ["a"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"workers": -1}, "workers is -1; give 0 or more"),
        ({"memory": -5}, "memory is -5; give 0 or more"),
        ({"threads": 0}, "threads is 0; give 1 or more"),
    ],
)
def test_numbers_that_cannot_be(settings, says):
    with pytest.raises(ValueError, match=says):
        LocalEngine(**settings)


def test_the_defaults_are_what_this_process_may_use():
    engine = LocalEngine()
    assert engine.workers == usable_processors() >= 1
    assert 0 < engine.memory <= psutil.virtual_memory().total / 2


# In other processes


def test_nothing_to_do_starts_nothing(monkeypatch):
    monkeypatch.setattr(Worker, "__init__", None)
    assert list(LocalEngine(workers=2).run(square, [])) == []


def test_processes_give_what_this_one_gives(tmp_path):
    """And the largest is begun first, unless its memory is taken; and all is gone at the end."""
    tasks = [Task(f"{n}", (n, 0.02), cost=n) for n in range(7)]
    before = psutil.Process().children(recursive=True)
    outcomes = list(LocalEngine(workers=2).run(square, tasks))
    assert by_key(outcomes) == by_key(LocalEngine(workers=0).run(square, tasks))
    assert outcomes[0].result["pair"][0] in {5, 6}
    new = {process.pid for process in psutil.Process().children(recursive=True)} - {process.pid for process in before}
    assert len(new) <= 1  # multiprocessing's resource tracker stays


def test_workers_have_one_thread_of_blas_and_stay(monkeypatch):
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = [outcome.result for outcome in LocalEngine(workers=1).run(look_around, [Task("a"), Task("b")])]
    assert found[0] == found[1]
    assert found[0]["process"] != os.getpid()
    assert {value for name, value in found[0].items() if name.endswith("THREADS")} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_tasks_that_fail_or_kill_are_named_and_the_others_go_on(tmp_path):
    hows = ["raise", "no-json", "exit", "die", "die-once", "well", "fine"]
    tasks = [Task(how, (how, tmp_path), cost=-at) for at, how in enumerate(hows)]
    outcomes = list(LocalEngine(workers=2).run(misbehave, tasks))
    found = by_key(outcomes)
    assert len(outcomes) == len(found) == len(hows)
    for how in ("die-once", "well", "fine"):
        assert found[how] == Outcome(how, {"how": how})
    assert found["raise"].error == FATES["raise"]
    assert "no such" in found["raise"].trace
    assert found["exit"].error == "its process ended with exit code 3"
    assert found["die"].error == "its process was ended by SIGKILL; is there enough memory?"
    assert {outcome.key for outcome in outcomes[-3:]} == {
        "exit",
        "die",
        "die-once",
    }  # tried again when all else is done


def test_what_cannot_be_loaded_in_a_worker_is_an_outcome(monkeypatch):
    def only_here():
        return {}

    only_here.__qualname__, only_here.__module__ = "only_here", engine_tasks.__name__
    monkeypatch.setattr(engine_tasks, "only_here", only_here, raising=False)
    outcomes = list(LocalEngine(workers=1).run(only_here, [Task("a"), Task("b")]))
    assert [outcome.key for outcome in outcomes] == ["a", "b"]
    assert all("Can't get attribute 'only_here'" in outcome.error for outcome in outcomes)


def test_what_cannot_be_sent_to_a_worker_is_told_before_one_is_started(monkeypatch):
    monkeypatch.setattr(Worker, "__init__", None)
    with pytest.raises(BackendError, match=r"<lambda>.* cannot be sent to other processes .*; define it at the top of"):
        LocalEngine(workers=1).run(lambda: {"a": 1}, [Task("a")])


def test_memory_is_a_budget_and_one_may_always_run(tmp_path):
    sizes = {"huge": 30, "large": 8, "small": 2, "tiny": 2}
    tasks = [Task(name, (str(tmp_path), name, 0.2), cost=size, memory=size) for name, size in sizes.items()]
    spans = {
        o.key: (o.result["begin"], o.result["end"]) for o in LocalEngine(workers=3, memory=10).run(note_times, tasks)
    }
    assert spans.keys() == sizes.keys()
    for moment, _ in spans.values():
        running = [name for name, (begin, end) in spans.items() if begin <= moment < end]
        assert sum(sizes[name] for name in running) <= 10 or running == ["huge"]
    assert min(spans, key=lambda name: spans[name][0]) == "huge"


def test_an_iterator_that_is_left_ends_its_processes():
    outcomes = LocalEngine(workers=2).run(square, [Task("quick", (1,), cost=2), Task("slow", (2, 600.0), cost=1)])
    assert next(outcomes).key == "quick"
    workers = [process for process in psutil.Process().children() if "spawn_main" in " ".join(process.cmdline())]
    assert len(workers) == 2
    outcomes.close()
    assert not any(process.is_running() for process in workers)


def test_it_runs_in_a_thread_as_well():
    found = []
    thread = threading.Thread(target=lambda: found.extend(LocalEngine(workers=1).run(square, [Task("a", (3,))])))
    thread.start()
    thread.join(timeout=100)
    assert [outcome.result["square"] for outcome in found] == [9]


def test_a_worker_that_is_dead_already_says_so():
    worker = Worker()
    with pytest.raises(RuntimeError, match="start one first"):
        _ = worker.task
    os.kill(worker.process_id, signal.SIGKILL)
    worker._process.join()
    worker.start(square, Task("a", (1,)))
    assert Worker.wait([worker]) == [worker]
    assert worker.receive() == Killed(-signal.SIGKILL)
    worker.stop()


UNGUARDED = """
    from tests.checkpoint.engine_tasks import square
    from ttlib.checkpoint.engines import LocalEngine, Task
    list(LocalEngine(workers=1).run(square, [Task("a", (1,)), Task("b", (1,))]))
"""


def test_a_program_that_starts_itself_again_is_told_why_that_cannot_be(tmp_path):
    (tmp_path / "unguarded.py").write_text(textwrap.dedent(UNGUARDED))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, tmp_path / "unguarded.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ttlib.errors.BackendError: worker processes cannot start: its process ended with exit code 1"
    )
    assert "`if __name__ == '__main__':`" in last
    assert BackendError.__name__ in last


# Whatever ends the run


def begin(journal):
    command = [sys.executable, "-m", "tests.checkpoint.engine_tasks", journal]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_another_record(process, journal):
    size = journal.stat().st_size if journal.exists() else 0
    while (journal.stat().st_size if journal.exists() else 0) == size and process.poll() is None:
        time.sleep(0.002)


def assert_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=100)
    assert not alive


def table(journal):
    """What the run ends in, as bytes; the order of the records is that of completion."""
    header, records = read_journal(journal)
    assert header == HEADER
    return json.dumps(sorted(records, key=lambda record: record["key"])).encode()


def expected():
    records = [{"key": o.key, "result": o.result} for o in map(attempt, [square] * 20, TWENTY)]
    return json.dumps(sorted(records, key=lambda record: record["key"])).encode()


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_any_time_and_resumed_it_is_as_if_it_had_not_been(tmp_path, kills):
    journal, moments, killed = tmp_path / "run.jsonl", random.Random(kills), 0  # noqa: S311
    for _ in range(kills):
        process = begin(journal)
        if moments.random() < 0.75:
            wait_for_another_record(process, journal)
        time.sleep(moments.uniform(0, 0.04))
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        process.communicate()
        assert_gone(children)
        if journal.exists():
            with journal.open("ab") as file:  # the write may have been cut short as well
                file.write(b'{"key": "task'[: moments.randrange(14)])
    assert killed >= 2
    process = begin(journal)
    _, said = process.communicate(timeout=200)
    assert (process.returncode, said) == (0, "")
    assert table(journal) == expected()
    assert journal.read_bytes().count(b"\n") == 21  # nothing was done twice but what was in flight


def test_ctrl_c_ends_all_at_once_and_keeps_what_is_done(tmp_path):
    journal = tmp_path / "run.jsonl"
    process = begin(journal)
    wait_for_another_record(process, journal)  # the header
    wait_for_another_record(process, journal)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, said = process.communicate(timeout=100)
    assert (process.returncode, said) == (130, "")
    assert_gone(children)
    assert 1 <= len(list(read_journal(journal)[1])) < 20


# What there is to use


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return {"proc": root / "proc", "cgroups": root / "cg"}


MACHINE = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n"}
GIVEN = 8000 * 1024
SECOND = MACHINE | {"proc/self/cgroup": "0::/a/b\n"}
FIRST = MACHINE | {"proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/a/b\n1:name=systemd:/\n"}


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        (MACHINE, GIVEN),
        (SECOND, GIVEN),
        (SECOND | {"cg/a/b/memory.max": "max", "cg/a/b/memory.current": "5"}, GIVEN),
        (SECOND | {"cg/a/memory.max": "900", "cg/a/memory.current": "500"}, 400),
        (SECOND | {"cg/memory.max": "900", "cg/memory.current": "1500"}, 0),
        (
            SECOND
            | {"cg/memory.max": "900", "cg/memory.current": "850"}
            | {"cg/memory.stat": "anon 3\nactive_file 100\ninactive_file 200\n"},
            350,
        ),
        (FIRST | {"cg/memory/memory.limit_in_bytes": "900", "cg/memory/memory.usage_in_bytes": "500"}, 400),
        (
            FIRST
            | {"cg/memory/a/memory.limit_in_bytes": "900", "cg/memory/a/memory.usage_in_bytes": "850"}
            | {"cg/memory/a/memory.stat": "active_file 7\ntotal_active_file 100\ntotal_inactive_file 200\n"},
            350,
        ),
    ],
)
def test_memory_is_what_the_machine_and_every_control_group_leave(tmp_path, files, memory):
    assert available_memory(**write(tmp_path, files)) == memory


def test_where_nothing_is_told_half_of_the_memory_is_taken(tmp_path):
    assert 0 < available_memory(**write(tmp_path, {})) <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("files", "processors"),
    [
        ({}, None),
        (SECOND | {"cg/cpu.max": "max 100000"}, None),
        (SECOND | {"cg/a/cpu.max": "50000 100000"}, 1),
        (FIRST | {"cg/cpu/cpu.cfs_quota_us": "-1", "cg/cpu/cpu.cfs_period_us": "100000"}, None),
        (FIRST | {"cg/cpu/x/cpu.cfs_quota_us": "90000", "cg/cpu/x/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_a_quota_bounds_the_processors(tmp_path, files, processors):
    every = len(os.sched_getaffinity(0))
    assert usable_processors(**write(tmp_path, files)) == (processors or every)

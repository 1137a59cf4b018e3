"""Cells that take no time, for the runner: a module of its own, since the worker processes import it.

As a program it is the study's command line, with these cells for a profile named "fake":
`python -m tests.studies.fake_cells run --profile fake --data FOLDER ...`.
"""

import os
import random
import signal
import sys
import time
import types
from functools import partial
from pathlib import Path

from benchmarks.paper import __main__ as command_line
from benchmarks.paper import profiles
from benchmarks.paper.cells import Budget, Cell
from benchmarks.paper.profile import Profile
from benchmarks.paper.results import read
from benchmarks.paper.runner import run

BUDGET = Budget(steps=10)
RATES = (1e-3, 1e-2)
METHODS = ("lora-8", "loretta-adp")


def tuning(method, tasks=("sst2", "stsb")):
    return tuple(
        Cell("minilm", method, (task,), 100, BUDGET, rate, scored_on="tune") for task in tasks for rate in RATES
    )


def cells(methods=METHODS, tasks=("sst2", "cola"), seeds=(0, 1), learning_rate=None, budget=BUDGET):
    return tuple(
        Cell("minilm", method, (task,), seed, budget, learning_rate)
        for method in methods
        for task in tasks
        for seed in seeds
    )


def profile(**studies):
    studies = studies or {"t1": cells(), "t6": cells(tasks=("sst2",), seeds=(0, 1, 2))}
    methods = dict.fromkeys(cell.method for study in studies.values() for cell in study if cell.learning_rate is None)
    return Profile("fake", "no real runs", studies, {f"minilm/{method}": tuning(method) for method in methods})


def outcome(cell, status="finished"):
    """It follows from the cell alone."""
    score = random.Random(cell.key).random()  # noqa: S311
    scores = dict.fromkeys(cell.tasks, score) if status == "finished" else {}
    return {"status": status, "scores": scores, "loss": 1 - score, "cpu_seconds": 0.5}


def finish(cell, source):
    time.sleep(0.05)
    return outcome(cell)


def wait_for_the_other_method(cell, results):
    """The last run that the first method's learning rate hangs on ends when the second one has a result."""
    patience = time.monotonic() + 120
    while cell == tuning(METHODS[0])[-1] and time.monotonic() < patience:
        if any(line.cell.scored_on == "report" for line in read(results).values()):
            break
        time.sleep(0.01)
    return outcome(cell)


def misbehave(cell, source):
    """What the cell's task says."""
    (task,) = cell.tasks
    first_time = Path(source, f"{cell.key}-{task}")
    if task == "raise":
        msg = "no such thing"
        raise LookupError(msg)
    if task == "exit":
        sys.exit(3)
    if task == "die" or (task == "die-once" and not first_time.exists()):
        first_time.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "diverge":
        return outcome(cell, status="diverged") | {"loss": float("nan")}
    changes = {"no-pickle": {"loss": lambda: 0}, "no-json": {"loss": {1, 2}}}
    time.sleep(0.2 if task.startswith("beside") else 0)
    return outcome(cell) | changes.get(task, {})


def look_around(cell, source):
    """What torch finds in a worker process."""
    loaded_before = "torch" in sys.modules
    import torch

    return outcome(cell) | {"loaded_before": loaded_before, "threads": torch.get_num_threads(), "process": os.getpid()}


if __name__ == "__main__":
    module = types.ModuleType(f"{profiles.__name__}.fake")
    module.PROFILE = profile()
    sys.modules[module.__name__] = module
    command_line._PROFILES.append("fake")
    command_line.run = partial(run, run_cell=finish)
    command_line._source = lambda chosen: chosen.data  # no rows are read, and the real ones load torch
    sys.exit(command_line.main())

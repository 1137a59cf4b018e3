"""Functions for workers, which import them from here.

As a program it runs twenty small tasks into a journal, with two workers: `python -m tests.checkpoint.engine_tasks JOURNAL`.
"""

import os
import signal
import sys
import time
from pathlib import Path

from ttlib.checkpoint.engines import LocalEngine, Task
from ttlib.checkpoint.journal import Journal

HEADER = {"about": "twenty numbers", "settings": {"power": 2}}
TWENTY = [Task(f"task-{n:02d}", (n, 0.03), cost=n % 7) for n in range(20)]


def square(n, seconds=0.0):
    time.sleep(seconds)
    return {"square": n * n, "third": n / 3, "pair": (n, str(n))}


def misbehave(how, folder):
    first_time = Path(folder, how)
    if how == "raise":
        msg = "no such\nthing"
        raise LookupError(msg)
    if how == "exit":
        sys.exit(3)
    if how == "die" or (how == "die-once" and not first_time.exists()):
        first_time.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"no-json": {"set": {1}}, "nan": {"value": float("nan")}, "list": [1]}.get(how, {"how": how})


def look_around():
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {"process": os.getpid(), "numpy": "numpy" in sys.modules, **{name: os.environ.get(name) for name in names}}


def note_times(folder, name, seconds):
    """When it ran, for whoever wants to know what ran at the same time."""
    begin = time.monotonic()
    time.sleep(seconds)
    return {"begin": begin, "end": time.monotonic()}


def resume(path):
    with Journal.resume(path, HEADER) as journal:
        done = {record["key"] for record in journal.records()}
        for outcome in LocalEngine(workers=2).run(square, [task for task in TWENTY if task.key not in done]):
            journal.append({"key": outcome.key, "result": outcome.result})


if __name__ == "__main__":
    try:
        resume(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit(130)

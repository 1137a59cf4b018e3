"""Analysis of a large checkpoint against a plain read and one Gram product of the same bytes, in the same run.

    python -m benchmarks.checkpoints [--gigabytes 8] [--folder FOLDER]

The weights are 4096 x 4096 in float32 and decay as 1 / sqrt(k): near what trained ones do.  Both sides run with the
same engine, a process a core and one BLAS thread each.  Anonymous memory is that of all processes together, sampled.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ttlib.checkpoint import LocalEngine, TensorSpec, analyze, open_checkpoint, write_safetensors
from ttlib.checkpoint.engines import Task

_SIDE = 4096
_SHARD = 16  # weights


def make(folder: Path, gigabytes: float) -> None:
    """Write the shards; weights are one another with rows and signs moved, which costs less than drawing each anew."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((_SIDE, _SIDE), dtype=np.float32)
    base *= np.arange(1, _SIDE + 1, dtype=np.float32) ** -0.5
    count = max(1, round(gigabytes * 1e9 / base.nbytes))
    for shard in range(-(-count // _SHARD)):
        names = [f"layers.{k}.weight" for k in range(shard * _SHARD, min(count, (shard + 1) * _SHARD))]
        specs = [TensorSpec(name, "F32", base.shape) for name in names]
        tensors = ((name, np.roll(base, 17 * k, axis=0)) for k, name in enumerate(names))
        total = -(-count // _SHARD)
        write_safetensors(folder / f"model-{shard + 1:05}-of-{total:05}.safetensors", specs, tensors)


def read_and_multiply(path: str, name: str) -> dict[str, float]:
    """The peer: one weight read and multiplied by its transpose once."""
    matrix = open_checkpoint(path).array(name)
    return {"trace": float(np.trace(matrix @ matrix.T))}


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Return seconds and the largest anonymous memory of this process and its children, in MiB."""
    stop, peak = threading.Event(), 0.0

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.05):
            peak = max(peak, sum(map(_anonymous, _family())))

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    try:
        run()
        return time.perf_counter() - began, peak
    finally:
        stop.set()
        thread.join()


def _family() -> list[int]:
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children")
    return [own, *map(int, children.read_text().split())]


def _anonymous(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0.0)


def main() -> None:
    """Make the checkpoint, measure both sides twice, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--folder", type=Path, help="of the checkpoint; made and kept there")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        if not list(folder.glob("*.safetensors")):
            make(folder, chosen.gigabytes)
        opened = open_checkpoint(folder)
        size = sum(entry.nbytes for entry in opened.entries.values())
        tasks = [Task(name, (str(folder), name), memory=128 << 20) for name in opened.entries]
        for number in (1, 2):
            plain, plain_memory = timed(lambda: list(LocalEngine().run(read_and_multiply, tasks)))
            output = tempfile.mkdtemp(dir=temporary)
            ours, memory = timed(lambda folder=folder, output=output: analyze(folder, output=output))
            sys.stdout.write(
                f"run {number}, {size / 1e9:.1f} GB: read + Gram product {plain:.1f} s, {plain_memory:.0f} MiB; "
                f"analysis of 3 shapes {ours:.1f} s, {memory:.0f} MiB: {plain / ours:.2f} of the throughput\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()

"""`ttlib.calibrate`: measure rates of products, bandwidths of copies, and the overhead of calls and kernels."""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ttlib._arrays import astype, copied, device, from_numpy, library, matmul, namespace, reshape, to_numpy
from ttlib._types import Array
from ttlib.planning.candidates import candidates
from ttlib.planning.execution import execute
from ttlib.planning.kernels import Product
from ttlib.planning.machine import BUILT_IN, ITEMSIZES, LENGTHS, TRANSFERS, WIDTHS, MachineModel, Overhead, RateTable
from ttlib.planning.machine_file import default_path, forget, write_model
from ttlib.planning.network import Network

# Each of some four hundred products is repeated for this long, in rounds over all of them: another process may slow
# the machine for longer than one measurement takes.
_BATCH_SECONDS = 0.2e-3
_BATCHES = 2
_ROUNDS = 3
# Overheads are few, and every prediction rests on them.
_OVERHEAD_ROUNDS = 100
_SHORTEST = 1e-9
# Two trains whose arithmetic takes no time: their difference is the overhead of four more cores.
_SHORT, _LONG = 4, 8


def calibrate(path: str | Path | None = None, /, *, like: Array | None = None) -> MachineModel:
    """Measure this machine once, in about two seconds, and store what `ttlib.plan` predicts with.

    >>> import tempfile, ttlib
    >>> model = ttlib.calibrate(tempfile.mkdtemp() + "/machine.json")
    >>> model.library, sorted(model.rates)
    ('numpy', ['float32', 'float64'])

    Args:
        path: the JSON file to write.  By default that of the environment variable TTLIB_MACHINE or, without it,
            ttlib/machine.json in the user's folder for caches ($XDG_CACHE_HOME or ~/.cache on Linux).  Plans are made
            with that default file: name another one in TTLIB_MACHINE to plan with it.
        like: an array of the library, and on the device, to measure; by default numpy.  Only torch has gradients and
            bfloat16 to measure: with another library the overheads of training remain the built-in ones.

    Measured as this process is set up, with its number of threads.  Returns what was measured, and plans made from now
    on use it.  Raises OSError where the file cannot be written.
    """
    if like is None:
        like = np.zeros(())
    model = measure(like)
    write_model(default_path() if path is None else Path(path), model)
    forget()
    return model


def measure(like: Array) -> MachineModel:
    """Return the model of the machine behind the library and the device of *like*."""
    xp, dtypes = namespace(like), ["float32", "float64"]
    if library(like) == "torch":
        dtypes.append("bfloat16")
    # First, since it frees large arrays: an allocator that has seen some keeps the memory of the next ones, as it does
    # in the middle of any real work.
    streaming = tuple(_bandwidth(like, size, copied) for size in TRANSFERS)
    return MachineModel(
        library=library(like),
        rates={dtype: _rates(like, getattr(xp, dtype)) for dtype in dtypes},
        streaming=streaming,
        copying=tuple(_bandwidth(like, size, _transposed) for size in TRANSFERS),
        inference=_overhead(like, training=False),
        training=_overhead(like, training=True) if library(like) == "torch" else BUILT_IN.training,
    )


def _rates(like: Array, dtype: Any) -> RateTable:
    # Two arrays: numpy multiplies a matrix by its own transpose in another way.
    left, right = (_random(like, dtype, seed) for seed in (0, 1))
    tiny = _seconds(functools.partial(matmul, _matrix(left, 1, 1, False), _matrix(right, 1, 1, False)))

    def rate(length: int, side: int, layout: int, width: int) -> float:
        m, k, n = (width if each == side else length for each in range(3))
        left_transposed, right_transposed = (bool(flag) for flag in divmod(layout, 2))
        a, b = _matrix(left, m, k, left_transposed), _matrix(right, k, n, right_transposed)
        seconds = _seconds(functools.partial(matmul, a, b))
        return _rounded(Product(m, k, n).flops / max(seconds - tiny, 0.1 * seconds))

    cases = [*product(LENGTHS, range(3), range(4), WIDTHS)]
    best = dict.fromkeys(cases, 0.0)
    for _ in range(_ROUNDS):
        best.update({case: max(best[case], rate(*case)) for case in cases})
    return tuple(
        tuple(
            tuple(tuple(best[length, side, layout, width] for width in WIDTHS) for layout in range(4))
            for side in range(3)
        )
        for length in LENGTHS
    )


def _random(like: Array, dtype: Any, seed: int) -> Array:
    """Return the numbers that all matrices of the products are cut from."""
    values = np.random.default_rng(seed).standard_normal(max(LENGTHS) ** 2, dtype=np.float32)
    return astype(from_numpy(values, like=like, dtype=namespace(like).float32), dtype)


def _matrix(numbers: Array, rows: int, cols: int, transposed: bool) -> Array:
    values = numbers[: rows * cols]
    return reshape(values, (cols, rows)).mT if transposed else reshape(values, (rows, cols))


def _bandwidth(like: Array, size: int, copy: Callable[[Array], Array]) -> float:
    """Return the bytes a second of a copy that moves *size* bytes, half of them in and half of them out."""
    side = math.isqrt(size // 2 // ITEMSIZES["float32"])
    x = _ones(like, (side, side))
    return _rounded(size / _seconds(functools.partial(copy, x)))


def _transposed(x: Array) -> Array:
    return reshape(x.mT, (-1,))  # numbers that do not lie in this order are written out


def _overhead(like: Array, *, training: bool) -> Overhead:
    """Return what is left of the time of two trains of different length, all of whose modes and ranks are 2."""
    (few, short), (many, long) = (_train(like, order, training) for order in (_SHORT, _LONG))
    pairs = [(_seconds(short), _seconds(long)) for _ in range(_OVERHEAD_ROUNDS)]
    of_short, of_long = map(min, zip(*pairs, strict=True))
    kernel = max((of_long - of_short) / (many - few), _SHORTEST)
    return Overhead(call=_rounded(max(of_short - few * kernel, _SHORTEST)), kernel=_rounded(kernel))


def _train(like: Array, order: int, training: bool) -> tuple[int, Callable[[], Array]]:
    """Return how many kernels a train has, and what carries them out."""
    network = Network((2,) * order, (1, *(2,) * (order - 1), 1), split=order // 2, tokens=2)
    found = candidates(network, training=training, dtype="float32", machine=BUILT_IN)
    (candidate,) = (candidate for candidate in found if candidate.strategy == "factors")
    cores = [_ones(like, shape) for shape in network.core_shapes]
    x = _ones(like, (2, 2 ** (order // 2)))
    run = functools.partial(execute, candidate.program, network, cores, x)
    if not training:
        return len(candidate.kernels), run
    leaves = [array.requires_grad_() for array in (*cores, x)]
    grad, upstream = sys.modules["torch"].autograd.grad, run().detach()
    return len(candidate.kernels), lambda: grad(run(), leaves, upstream)[0]


def _ones(like: Array, shape: Sequence[int]) -> Array:
    return namespace(like).ones(tuple(shape), dtype=namespace(like).float32, device=device(like))


def _seconds(work: Callable[[], Array]) -> float:
    """Return the time of *work*, the least of a few batches: whatever else the machine does only adds to it."""
    _batch(work, 1)
    once = _batch(work, 1)
    count = math.ceil(_BATCH_SECONDS / max(once, 1e-6))
    return min(once, *(_batch(work, count) / count for _ in range(_BATCHES if count > 1 else 1)))


def _batch(work: Callable[[], Array], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count - 1):
        work()
    to_numpy(reshape(work(), (-1,))[:1])  # a device that works on its own has finished when a number arrives
    return time.perf_counter() - start


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")

"""What a machine model is, and the time that it predicts for a kernel.  Numbers only."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ttlib.planning.kernels import Copy, Product

ITEMSIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16}

# The size classes at which rates are known; between them, they are interpolated on logarithmic scales.
WIDTHS = (1, 4, 8, 16, 64, 128)  # of the thin side of a product: m, k or n
LENGTHS = (192, 640)  # of its other two sides: what a cache can hold, and what it cannot; no powers of 2, which alias
TRANSFERS = (1 << 18, 1 << 22, 1 << 26)  # bytes of a copy

# FLOP/s by [length][thin side: m, k, n][2 * left transposed + right transposed][width].
RateTable: TypeAlias = tuple[tuple[tuple[tuple[float, ...], ...], ...], ...]
RATE_TABLE_SHAPE = (len(LENGTHS), 3, 4, len(WIDTHS))

# A dtype that was not measured is predicted by another, with so many real products for one of its own.
_PREDICTED_BY = {
    "float16": ("float32", 1),
    "bfloat16": ("float32", 1),
    "complex64": ("float32", 4),
    "complex128": ("float64", 4),
}


@dataclass(frozen=True, slots=True)
class Overhead:
    """Seconds that a call, and every kernel in it, takes whatever the sizes."""

    call: float
    kernel: float


@dataclass(frozen=True, slots=True, eq=False)  # a key of caches: known by identity, its tables are long
class MachineModel:
    """Rates of products, bandwidths and overheads of one machine; `library` says what they were measured with.

    `rates` has a RateTable for float32 and float64 at least.  `streaming` and `copying` are bytes per second, at
    each size of TRANSFERS, of a plain copy and of one that transposes.
    """

    library: str
    rates: Mapping[str, RateTable] = field(repr=False)
    streaming: tuple[float, ...]
    copying: tuple[float, ...]
    inference: Overhead
    training: Overhead

    def seconds(self, kernel: Product | Copy, *, dtype: str, training: bool) -> float:
        """Predict the time of one kernel: the longer of arithmetic and traffic, and the overhead."""
        traffic = kernel.elements * ITEMSIZES[dtype]
        overhead = (self.training if training else self.inference).kernel
        if isinstance(kernel, Copy):
            return overhead + traffic / _interpolate(TRANSFERS, self.copying, traffic)
        arithmetic = kernel.flops / self.rate(kernel, dtype)
        return overhead + max(arithmetic, traffic / _interpolate(TRANSFERS, self.streaming, traffic))

    def rate(self, product: Product, dtype: str) -> float:
        """Return the FLOP/s of a product, where one multiplication and addition of any numbers counts as two.

        The thinnest side decides; every side of a product is asked, and the slowest answer is taken.
        """
        known, real_products = (dtype, 1) if dtype in self.rates else _PREDICTED_BY[dtype]
        layout = 2 * product.left_transposed + product.right_transposed
        sides = (product.m, product.k, product.n)
        slowest = [
            min(_interpolate(WIDTHS, table[layout], side) for table, side in zip(tables, sides, strict=True))
            for tables in self.rates[known]
        ]
        _, middle, largest = sorted(sides)
        return _interpolate(LENGTHS, slowest, math.sqrt(middle * largest)) / real_products


def _interpolate(grid: Sequence[int], values: Sequence[float], at: float) -> float:
    """Interpolate linearly between logarithms; constant outside of the *grid*."""
    if at <= grid[0]:
        return values[0]
    if at >= grid[-1]:
        return values[-1]
    right = bisect_left(grid, at)
    low, high = grid[right - 1], grid[right]
    weight = math.log(at / low) / math.log(high / low)
    return float(values[right - 1] ** (1 - weight) * values[right] ** weight)


def _built_in() -> MachineModel:
    """Return one core of a laptop: thin products reach a part of the peak, whichever way the matrices lie."""
    shares = (0.08, 0.3, 0.5, 0.7, 0.9, 1.0)

    def rates(peak: float) -> RateTable:
        return (((tuple(peak * share for share in shares),) * 4,) * 3,) * len(LENGTHS)

    return MachineModel(
        library="built-in",
        rates={"float32": rates(80e9), "float64": rates(40e9)},
        streaming=(40e9, 30e9, 12e9),
        copying=(10e9, 8e9, 4e9),
        inference=Overhead(call=4e-6, kernel=2e-6),
        training=Overhead(call=20e-6, kernel=5e-6),
    )


BUILT_IN = _built_in()

"""Initialisation without noise: measure what a random start adds, and remove it exactly.

A tensor train that is trained as an update of a frozen weight should add nothing at first.  Setting one core to
zero does that, but then only this core has a gradient at the first step.  LoRETTA (Yang et al., NAACL 2024, section
3.3) proposes to keep all cores random and to take the noise out of the pre-trained weight.  `measure` says how
much noise a start brings; `displaced_factors` subtracts it, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ttlib import _arrays
from ttlib._types import Array
from ttlib.cores.displacement import displaced_factors as _displaced_factors
from ttlib.errors import ShapeError
from ttlib.tensor_train import TensorTrain


@dataclass(frozen=True, slots=True)
class NoiseReport:
    """Mean, standard deviation, Frobenius and spectral norm of the dense matrix of a tensor train."""

    mean: float | complex
    std: float
    frobenius_norm: float
    spectral_norm: float


def measure(tt: TensorTrain, /, *, rows: int, cols: int) -> NoiseReport:
    """Measure the dense (rows, cols) matrix of *tt* without forming it.

    >>> import ttlib
    >>> tt = ttlib.random([8, 8, 12, 8, 8], ranks=5, std=0.02, seed=0)
    >>> noise = ttlib.noise_reduction.measure(tt, rows=768, cols=64)
    >>> abs(noise.mean) < 0.1 * noise.std  # so subtracting the mean removes next to nothing
    True

    Raises ShapeError when no mode boundary lies between rows and columns.
    """
    left, right = (_arrays.to_numpy(factor) for factor in tt.factor_pair(rows, cols))
    wide = np.result_type(left.dtype, np.float64)
    left, right = left.astype(wide), right.astype(wide)
    mean = (left.sum(axis=0) @ right.sum(axis=1)) / (rows * cols)
    # U V = Q1 (R1 R2^H) Q2^H, so the singular values of the product are those of the small middle matrix.
    middle = np.linalg.qr(left).R @ np.linalg.qr(right.conj().T).R.conj().T
    values = np.linalg.svd(middle, compute_uv=False)
    frobenius = float(np.linalg.norm(values))
    std = math.sqrt(max(frobenius**2 / (rows * cols) - abs(mean) ** 2, 0.0))
    return NoiseReport(mean.item(), std, frobenius, float(values[0]))


def displaced_factors(cores: Sequence[Array], /, *, initial: Sequence[Array], split: int) -> tuple[Array, Array]:
    """Return P and Q with P Q = matrix(cores) - matrix(initial), exactly zero while the two are equal.

    >>> import numpy as np, ttlib
    >>> start = ttlib.random([8, 8, 12, 8, 8], ranks=5, seed=0).cores
    >>> p, q = ttlib.noise_reduction.displaced_factors(start, initial=start, split=3)
    >>> p.shape, q.shape, float(np.abs(p @ q).max())
    ((768, 10), (10, 64), 0.0)

    Args:
        cores, initial: two trains of the same shapes; gradients flow into both.
        split: how many leading modes number the rows, 1 <= split < d.

    The difference is carried through every product (A B - A0 B0 = (A - A0) B + A0 (B - B0)), so it is zero by
    construction and not by luck of rounding, and small changes of the cores keep their relative precision.
    Raises ShapeError when the trains differ in shape or the split is out of range.
    """
    ours, theirs = [tuple(c.shape) for c in cores], [tuple(c.shape) for c in initial]
    if ours != theirs:
        msg = f"cores {ours} and initial cores {theirs} must have the same shapes"
        raise ShapeError(msg)
    if not 1 <= split < len(ours):
        msg = f"split must lie between 1 and {len(ours) - 1} for {len(ours)} cores, got {split!r}"
        raise ShapeError(msg)
    return _displaced_factors(cores, initial, split)

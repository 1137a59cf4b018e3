"""Leading eigenpairs of small Hermitian matrices on the host: all of them, or only those that a cap lets through."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, Any]

# From this size on, and for at most this share of them, it pays to have LAPACK find the wanted pairs only
# (measured: 63 ms for 64 of 1024, against 148 ms for all).
_LEAST_SIZE = 128
_MOST_WANTED = 1 / 3


@dataclass(frozen=True, slots=True, eq=False)
class Eigenpairs:
    """The leading eigenpairs of a Gram matrix: `values` are the square roots of the eigenvalues, descending.

    `residual` is the sum of the eigenvalues that were not computed.
    """

    values: Numbers  # (…, k)
    vectors: Numbers  # (…, m, k)
    residual: Numbers  # (…,)


def leading_eigenpairs(gram: Numbers, wanted: int) -> Eigenpairs:
    """Return at least *wanted* leading pairs of the Hermitian matrices (…, m, m), or as many as there are.

    Raises numpy.linalg.LinAlgError where LAPACK does not converge.
    """
    size = gram.shape[-1]
    if size < _LEAST_SIZE or wanted > _MOST_WANTED * size or not _has_one_thread():
        energies, vectors = np.linalg.eigh(gram)  # ascending
        residual = np.zeros(gram.shape[:-2])
    else:
        energies, vectors = _last_pairs(gram.reshape(-1, size, size), wanted)
        energies = energies.reshape(*gram.shape[:-2], wanted)
        vectors = vectors.reshape(*gram.shape[:-1], wanted)
        trace = np.trace(gram, axis1=-2, axis2=-1).real
        residual = np.maximum(0.0, trace - energies.sum(axis=-1))
    values = np.sqrt(np.maximum(energies, 0.0))
    return Eigenpairs(values[..., ::-1].copy(), vectors[..., ::-1].copy(), residual)  # torch knows no negative strides


def _has_one_thread() -> bool:
    """Return whether the environment allows BLAS one thread.

    SciPy has a BLAS of its own beside numpy's.  With more threads the idle ones of either keep the cores busy while the
    other works, and what was saved is lost three times over (measured on two cores).
    """
    threads = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS")
    return threads == "1"


def _last_pairs(grams: Numbers, wanted: int) -> tuple[Numbers, Numbers]:
    from scipy.linalg import eigh  # noqa: PLC0415  # a tenth of a second, for large matrices only

    span = (grams.shape[-1] - wanted, grams.shape[-1] - 1)
    found = [eigh(gram, subset_by_index=span, driver="evr", check_finite=False) for gram in grams]
    energies, vectors = zip(*found, strict=True)
    return np.stack(energies), np.stack(vectors)

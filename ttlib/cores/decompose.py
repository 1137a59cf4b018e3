"""TT-SVD: an array to tensor-train cores, with the exact error (Oseledets 2011, Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Cores, Ranks, Shape
from ttlib.cost import count_parameters
from ttlib.linalg import truncated_svd


@dataclass(frozen=True, slots=True, eq=False)
class DecompositionReport:
    """What a decomposition did.

    `relative_error` is ||A - TT|| / ||A|| in the Frobenius norm, from the discarded singular values of every
    bond: exact, not a bound, up to the rounding of the dtype that was calculated in.  `singular_values` holds one
    float64 array a bond, before truncation.  `tolerance_met` is None where no tolerance was asked.
    """

    relative_error: float
    singular_values: tuple[np.ndarray[Any, Any], ...]
    ranks: Ranks
    shape: Shape
    driver: str
    tolerance_met: bool | None

    @property
    def parameters(self) -> int:
        """Numbers stored by the cores."""
        return count_parameters(self.shape, ranks=self.ranks)

    @property
    def compression(self) -> float:
        """Entries of the dense tensor per stored number."""
        return math.prod(self.shape) / self.parameters

    def __str__(self) -> str:
        met = {None: "", True: ", tolerance met", False: ", TOLERANCE NOT MET: the rank cap won"}[self.tolerance_met]
        return (
            f"relative error {self.relative_error:.3e}{met}; ranks {self.ranks}; {self.parameters:,} parameters, "
            f"{self.compression:.1f}x smaller; driver {self.driver}"
        )


def tt_svd(
    tensor: Array, shape: Shape, *, max_ranks: Ranks, eps: float | None, driver: str
) -> tuple[Cores, DecompositionReport]:
    """Sweep left to right, one truncated SVD a bond; *max_ranks* are already clipped to the shape.

    Every core but the last is left-orthogonal, so the squared error is the sum of the squares discarded at the
    bonds (Oseledets 2011, Theorem 2.2, with equality).  Each bond may therefore spend its share of what the bonds
    before it left of eps^2 ||A||^2, and the promise holds.

    The data is divided by its largest magnitude first, so that squares neither overflow nor vanish.
    """
    xp = _arrays.namespace(tensor)
    scale = _arrays.largest_magnitude(tensor) or 1.0
    rest = _arrays.astype(tensor, _arrays.compute_dtype(tensor)) / scale
    total = _arrays.scalar(xp.linalg.vector_norm(xp.reshape(rest, (-1,)))) ** 2
    tolerance = max(eps or 0.0, _rounding_floor(rest, eps))
    unspent = tolerance**2 * total
    cores: list[Array] = []
    spectra, discarded, rank = [], 0.0, 1
    for bond, mode in enumerate(shape[:-1], start=1):
        cut = truncated_svd(
            xp.reshape(rest, (rank * mode, -1)),  # (r n, n' … n'')
            max_rank=max_ranks[bond],
            budget=unspent / (len(shape) - bond),
            driver=driver,
        )
        unspent = max(0.0, unspent - cut.discarded)
        discarded += cut.discarded
        spectra.append(cut.singular_values * scale)
        cores.append(xp.reshape(cut.basis, (rank, mode, -1)))  # (r, n, r')
        rest, rank = cut.remainder, int(cut.remainder.shape[0])
    cores.append(xp.reshape(rest, (rank, shape[-1], 1)))
    error = math.sqrt(discarded / total) if total > 0 else 0.0
    report = DecompositionReport(
        relative_error=error,
        singular_values=tuple(spectra),
        ranks=(1, *(int(core.shape[2]) for core in cores)),
        shape=shape,
        driver=driver,
        tolerance_met=None if eps is None else error <= tolerance,
    )
    return _rescale(cores, scale, _arrays.result_dtype(tensor)), report


# In double precision a thousand units are still 2e-13; in single precision sixty-four are 8e-6 already.
_MOST_NOISE_UNITS = {"float64": 1024, "complex128": 1024}
_MOST_NOISE_UNITS_SINGLE = 64


def _rounding_floor(x: Array, eps: float | None) -> float:
    """Return the relative error that rounding makes anyway: singular values below it are noise, not data.

    QR and SVD of n numbers leave noise of up to about sqrt(n) units in the last place (measured with MKL and
    OpenBLAS: 0.2 to 0.4 sqrt(n) at worst).  Where the caller names a tolerance only a few units are dropped, so as
    not to take from a library that rounds better than that.
    """
    unit = float(_arrays.namespace(x).finfo(x.dtype).eps)
    if eps is not None:
        return 4 * unit
    most = _MOST_NOISE_UNITS.get(_arrays.dtype_name(x.dtype), _MOST_NOISE_UNITS_SINGLE)
    return unit * min(max(4, math.sqrt(math.prod(x.shape))), most)


def _rescale(cores: list[Array], scale: float, dtype: Any) -> Cores:
    """Put the scale back: into the last core, or spread over all where one core could not hold it.

    A core holds singular values, which can exceed every entry of the tensor and so the range of half precision.
    """
    limit = float(_arrays.namespace(cores[-1]).finfo(dtype).max)
    peak = _arrays.largest_magnitude(cores[-1])
    if peak * scale < limit:
        scaled = [*cores[:-1], cores[-1] * scale]
    else:
        share = (peak * scale) ** (1 / len(cores))
        scaled = [core * share for core in [*cores[:-1], cores[-1] / peak]]
    return tuple(_arrays.astype(core, dtype) for core in scaled)

"""Completion: a tensor train fitted to samples of a tensor by alternating least squares.

With all cores but one fixed the train is linear in that core, and its slices G[:, i, :] do not meet: slice i is fitted
to the samples whose index there is i.  A sample contributes the row L (x) R, its left interface times its right one.

* Gauge.  The cores on either side are kept orthogonal in the mean: the interfaces of all multi-indices, not only of
  the sampled ones, have mean L^H L = I.  Their entries are then about 1 for every order and mode size, and the mean
  square of the tensor is that of the slices.
* Ridge.  So a ridge on the slices weighs the tensor where no sample is.  It is a share of the residual, hence strong
  while the interfaces are wrong, and gone when the samples are met: a fit that exists is not biased.
* Start.  Nearly constant interfaces: products of random cores have heavy tails, a few samples outweigh the rest, and
  ALS was measured to end far from the tensor for functions as plain as sin(i1 + … + i6).
* Ranks grow from 1 to those asked, by one whenever three sweeps gain little.  Measured with rank 5 asked for a tensor
  of rank 2: error 1e-9 when grown, 1e-3 with all ranks from the start, for which more samples are needed.

Source: Grasedyck, Kluge, Kraemer, 'Variants of alternating least squares tensor completion in the tensor train format',
SIAM J. Sci. Comput. 37 (2015), sections 3 (ALS) and 5 (rank adaptation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ttlib._types import Cores, Ranks, Shape
from ttlib.cores.algebra import reverse
from ttlib.cores.check import ranks_of, shape_of
from ttlib.cost import count_parameters
from ttlib.ranks import clip_ranks

Numbers = np.ndarray[Any, Any]

# A sweep that leaves more than this of the residual gains little; after so many in a row the ranks grow.  Sooner was
# measured to trap one fit in five of plain functions: the new ranks fit what the old ones had not yet settled.
_LITTLE = 0.98
_SLOW = 3
_PATIENCE = 30  # sweeps without a better error …
_BETTER = 0.999  # … by this factor, after which the fit ends
_KICK = 0.1  # size of the random entries of a new rank, relative to the residual
# On the step from the slice before, so that it biases nothing: it only keeps the normal equations solvable.
_STEP_RIDGE = 1e-13
_SPREAD = 0.1  # of the entries of the first cores about 1


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Multi-indices (m, d) and values (m,), with the samples of every slice: of_slice[mode][index]."""

    indices: Numbers
    values: Numbers
    of_slice: tuple[tuple[Numbers, ...], ...]

    @classmethod
    def group(cls, indices: Numbers, values: Numbers, shape: Shape) -> Samples:
        """Sort the samples into the slices of a shape."""
        groups = []
        for mode, column in zip(shape, indices.T, strict=True):
            order = np.argsort(column, kind="stable")
            ends = np.cumsum(np.bincount(column, minlength=mode))
            groups.append(tuple(np.split(order, ends[:-1])))
        return cls(indices, values, tuple(groups))

    @property
    def unseen_slices(self) -> int:
        """How many slices have no sample."""
        return sum(not group.size for groups in self.of_slice for group in groups)

    def reverse(self) -> Samples:
        """Return the samples of the tensor with its modes in reverse order."""
        return Samples(self.indices[:, ::-1], self.values, self.of_slice[::-1])

    def error(self, cores: Sequence[Numbers]) -> float:
        """Return the error of the train at the samples, relative to their norm; NaN without samples."""
        if not self.values.size:
            return math.nan
        size = float(np.linalg.norm(self.values))
        return float(np.linalg.norm(evaluate(cores, self.indices) - self.values)) / (size or 1.0)


@dataclass(frozen=True, slots=True)
class CompletionReport:
    """How well a completion fits, on the samples it was fitted to and on those it was not.

    Both errors are relative, in the 2-norm over the samples.  `validation_error` is NaN where none were held out.
    `underdetermined`: fewer training samples than parameters of the ranks asked for, so infinitely many trains fit.
    `unseen_slices` have no training sample at all: their entries are whatever the start made them.
    """

    training_residual: float
    validation_error: float
    sweeps: int
    ranks: Ranks
    converged: bool
    reason: str
    samples_per_parameter: float
    unseen_slices: int

    @property
    def underdetermined(self) -> bool:
        """Fewer training samples than parameters."""
        return self.samples_per_parameter < 1

    def __str__(self) -> str:
        warnings = "; UNDERDETERMINED" if self.underdetermined else ""
        if self.unseen_slices:
            warnings += f"; {self.unseen_slices} slices without a sample"
        return (
            f"{'converged' if self.converged else 'NOT CONVERGED'}: {self.reason}; "
            f"residual {self.training_residual:.1e}, validation error {self.validation_error:.1e}; "
            f"{self.sweeps} sweeps; ranks {self.ranks}; "
            f"{self.samples_per_parameter:.1f} samples a parameter{warnings}"
        )


def fit(
    training: Samples,
    held_out: Samples,
    start: Sequence[Numbers],
    *,
    max_ranks: Ranks,
    eps: float,
    max_sweeps: int,
    regularization: float,
    generator: np.random.Generator,
) -> tuple[Cores, CompletionReport]:
    """Sweep to and fro until both errors are at most *eps*, and return the best train on the way.

    The best is that with the smallest error on the held-out samples, or on the training ones where none are held out.
    """
    cores, residual, best_error, stale, sweeps = right_orthogonal(start), 1.0, math.inf, 0, 0
    best, reason, last = tuple(start), f"max_sweeps={max_sweeps} are done", math.inf
    converged, slow = False, 0
    mean_square = float(np.mean(np.abs(training.values) ** 2))
    samples, validation, ranks = training, held_out, max_ranks
    while sweeps < max_sweeps:
        cores = sweep(cores, samples, ridge=regularization * min(1.0, residual) ** 2 * mean_square)
        sweeps += 1
        residual, error = samples.error(cores), validation.error(cores)
        if math.isnan(error):
            error = residual
        stale = 0 if error < _BETTER * best_error else stale + 1
        converged = max(residual, error) <= eps
        if error < best_error or converged:
            best_error = error
            best = cores if sweeps % 2 else reverse(cores)
        if converged:
            reason = f"the errors are within {eps:.1e}"
            break
        if stale >= _PATIENCE:
            reason = f"no gain in {stale} sweeps"
            break
        cores, samples, validation, ranks = reverse(cores), samples.reverse(), validation.reverse(), ranks[::-1]
        slow = slow + 1 if residual > _LITTLE * last else 0
        last = residual
        if slow >= _SLOW and ranks_of(cores) != ranks:
            cores, last = right_orthogonal(grow(cores, ranks, _KICK * residual, generator)), math.inf
    return best, CompletionReport(
        training_residual=training.error(best),
        validation_error=held_out.error(best),
        sweeps=sweeps,
        ranks=ranks_of(best),
        converged=converged,
        reason=reason,
        samples_per_parameter=len(training.values) / count_parameters(shape_of(best), ranks=max_ranks),
        unseen_slices=training.unseen_slices,
    )


def constant_start(shape: Shape, generator: np.random.Generator, *, size: float) -> Cores:
    """Return a train of rank 1 whose entries scatter about *size*."""
    cores = [1 + _SPREAD * generator.standard_normal((1, mode, 1)) for mode in shape]
    return (*cores[:-1], size * cores[-1])


def evaluate(cores: Sequence[Numbers], indices: Numbers) -> Numbers:
    """Return the entries (m,) of the train at the multi-indices (m, d)."""
    rows = np.ones((len(indices), 1))
    for core, column in zip(cores, indices.T, strict=True):
        rows = advance(rows, core, column)
    return rows[:, 0]


def advance(rows: Numbers, core: Numbers, column: Numbers) -> Numbers:
    """Multiply the interface rows (m, r) by the slices (r, r') of the core that the column of indices (m,) names."""
    result = np.empty((len(rows), core.shape[2]), dtype=np.result_type(rows, core))
    for index in range(core.shape[1]):
        chosen = column == index
        result[chosen] = rows[chosen] @ core[:, index, :]
    return result


def transposed(core: Numbers) -> Numbers:
    """Return the core (r', n, r) of the reversed train."""
    return core.transpose(2, 1, 0)


def sweep(cores: Sequence[Numbers], samples: Samples, *, ridge: float) -> Cores:
    """Fit every core in turn, left to right; the train must be right-orthogonal and comes out left-orthogonal."""
    rights = [np.ones((len(samples.values), 1))]
    for core, column in zip(reversed(cores[1:]), samples.indices.T[:0:-1], strict=True):
        rights.append(advance(rights[-1], transposed(core), column))
    left, fitted, carry = np.ones((len(samples.values), 1)), [], np.ones((1, 1))
    for mode, core in enumerate(cores):
        core = np.tensordot(carry, core, axes=1)  # noqa: PLW2901  (r, r) (r, n, r') -> (r, n, r')
        core = fit_core(core, left, rights.pop(), samples, mode, ridge=ridge)  # noqa: PLW2901
        if mode < len(cores) - 1:
            core, carry = orthogonalise(core)  # noqa: PLW2901
            left = advance(left, core, samples.indices[:, mode])
        fitted.append(core)
    return tuple(fitted)


def fit_core(core: Numbers, left: Numbers, right: Numbers, samples: Samples, mode: int, *, ridge: float) -> Numbers:
    """Take the least-squares step of every slice; left (m, r) and right (m, r') are the interfaces at the samples."""
    shape = (core.shape[0], core.shape[2])
    unknowns = math.prod(shape)
    fitted = np.array(core, dtype=np.result_type(core, left, right, samples.values))
    # Every slice stands for one in n of the tensor, whatever its share of the samples.
    weight = ridge * len(samples.values) / core.shape[1]
    for index, chosen in enumerate(samples.of_slice[mode]):
        if not chosen.size:
            continue
        rows = (left[chosen][:, :, None] * right[chosen][:, None, :]).reshape(-1, unknowns)  # (m, r, r') -> (m, r r')
        residual = samples.values[chosen] - rows @ core[:, index, :].reshape(unknowns)
        normal = rows.conj().T @ rows  # (r r', r r')
        trace = float(np.trace(normal).real)
        if trace == 0:
            continue  # an interface that vanishes at all samples says nothing about the slice
        normal[np.diag_indices(unknowns)] += weight + _STEP_RIDGE * trace / unknowns
        step = np.linalg.solve(normal, rows.conj().T @ residual - weight * core[:, index, :].reshape(unknowns))
        fitted[:, index, :] += step.reshape(shape)  # (r r',) -> (r, r')
    return fitted


def orthogonalise(core: Numbers) -> tuple[Numbers, Numbers]:
    """Return the core left-orthogonal in the mean, and the factor (q, r') for the next core."""
    left, mode, right = core.shape
    q, carry = np.linalg.qr(core.reshape(left * mode, right))  # (r n, q) (q, r')
    scale = math.sqrt(mode)
    return scale * q.reshape(left, mode, -1), carry / scale  # (r n, q) -> (r, n, q)


def right_orthogonal(cores: Sequence[Numbers]) -> Cores:
    """Return the same train with all cores but the first right-orthogonal in the mean."""
    swept, carry = [], np.ones((1, 1))
    for core in reverse(cores)[:-1]:
        core, carry_next = orthogonalise(np.tensordot(carry, core, axes=1))  # noqa: PLW2901
        swept.append(core)
        carry = carry_next
    swept.append(np.tensordot(carry, transposed(cores[0]), axes=1))
    return reverse(swept)


def grow(cores: Sequence[Numbers], max_ranks: Ranks, size: float, generator: np.random.Generator) -> list[Numbers]:
    """Raise every rank below *max_ranks* by one, filling up with Gaussian entries of standard deviation *size*."""
    wanted = [min(rank + 1, most) for rank, most in zip(ranks_of(cores), max_ranks, strict=True)]
    ranks = clip_ranks(shape_of(cores), wanted)
    grown = []
    for core, (left, right) in zip(cores, pairwise(ranks), strict=True):
        larger = size * generator.standard_normal((left, core.shape[1], right)).astype(core.dtype)
        larger[: core.shape[0], :, : core.shape[2]] = core
        grown.append(larger)
    return grown

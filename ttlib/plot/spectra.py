"""Singular values from what a caller may have, and what ranks or a tolerance keep of them; nothing is drawn here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

from ttlib._types import RanksLike
from ttlib.cores.report import DecompositionReport
from ttlib.errors import BackendError, RankError
from ttlib.linalg import TruncationRule
from ttlib.plot.style import check_numbers
from ttlib.ranks import check_tolerance, expand_ranks
from ttlib.train import Train

# A train, the report of a decomposition, or the values of one or more bonds, with names or without.
SpectrumSource: TypeAlias = Train | DecompositionReport | Mapping[Any, Any] | Sequence[Any] | np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Bond:
    """The values of a bond from the largest down, and how many stay."""

    name: str
    values: np.ndarray[Any, Any]
    residual: float  # the sum of the squares of further values, which nobody has computed
    kept: int

    @property
    def truncated(self) -> bool:
        """Whether anything is dropped."""
        return self.kept < self.values.size or self.residual > 0


@dataclass(frozen=True, slots=True, eq=False)
class Spectra:
    """All bonds of a picture, and the tolerance that was asked."""

    bonds: tuple[Bond, ...]
    limit: float | None  # the root of what TT-SVD may lose at a bond
    eps: float | None
    numbered: bool  # whether the bonds have no names of their own


def read_spectra(source: SpectrumSource, ranks: RanksLike | None, eps: float | None) -> Spectra:
    """Return the values of every bond with the number that is kept; see `ttlib.plot.spectrum` for the arguments."""
    if isinstance(source, DecompositionReport) and ranks is None and eps is None:
        ranks = source.ranks
    found = _values(source)
    caps = _caps(ranks, len(found)) if ranks is not None else [values.size for _, values, _ in found]
    tolerance = None if eps is None else check_tolerance(eps)
    peak = max((float(values[0]) for _, values, _ in found), default=0.0) or 1.0  # or squares would leave the range
    energies = [float(((values / peak) ** 2).sum()) + residual / peak / peak for _, values, residual in found]
    budget = (tolerance or 0.0) ** 2 * max(energies, default=0.0) / max(len(found), 1)
    bonds = []
    for (name, values, residual), cap in zip(found, caps, strict=True):
        kept = min(cap, values.size)
        if tolerance is not None:
            kept = TruncationRule(kept, budget).rank(values / peak, residual / peak / peak)
        bonds.append(Bond(name, values, residual, kept))
    limit = None if tolerance is None else math.sqrt(budget) * peak
    return Spectra(tuple(bonds), limit, tolerance, numbered=not isinstance(source, Mapping))


def _caps(ranks: RanksLike, count: int) -> list[int]:
    given = tuple(ranks) if isinstance(ranks, Iterable) and not isinstance(ranks, str) else ranks
    if isinstance(given, tuple) and len(given) not in (count, count + 2):
        msg = f"ranks {given} has {len(given)} entries for {count} bond(s): give one int, or one rank for each bond"
        raise RankError(msg)
    return list(expand_ranks((1,) * (count + 1), given)[1:-1])


def _values(source: SpectrumSource) -> list[tuple[str, np.ndarray[Any, Any], float]]:
    """The name, the descending values and the rest of each bond."""
    if isinstance(source, Train):
        source = source.singular_values()
    elif isinstance(source, DecompositionReport):
        source = source.singular_values
    if isinstance(source, Mapping):
        named = [(str(key), own) for key, own in source.items()]
    elif isinstance(source, str) or not (hasattr(source, "dtype") or isinstance(source, Sequence)):
        msg = f"spectrum takes a train, a report or singular values, got {type(source).__name__}"
        raise BackendError(msg)
    else:
        named = [(f"bond {number}", own) for number, own in enumerate(_by_bond(source), 1)]
    return [(name, *_one(name, own)) for name, own in named]


def _by_bond(source: Any) -> Sequence[Any]:
    """Wrap the values of one bond."""
    is_one_bond = source.ndim < 2 if hasattr(source, "dtype") else any(isinstance(own, Real) for own in source)
    return [source] if is_one_bond else list(source)


def _one(name: str, own: Any) -> tuple[np.ndarray[Any, Any], float]:
    values = check_numbers(getattr(own, "values", own), name=f"the singular values of {name}")
    rest = check_numbers([getattr(own, "residual", 0.0)], name=f"the residual of {name}")
    return np.sort(values)[::-1], float(rest[0])

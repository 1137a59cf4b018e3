"""What the spectra of a weight say of every candidate shape: the error at ranks, and the ranks for an error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ttlib._types import Ranks, Shape
from ttlib.checkpoint import analysis_json
from ttlib.checkpoint.bond_spectrum import BondSpectrum, round_down, round_up, to_digits
from ttlib.checkpoint.candidates import CandidateShape, shape_candidates
from ttlib.checkpoint.spectra import bond_spectra
from ttlib.cost import compression, count_parameters
from ttlib.errors import RankError, ShapeError
from ttlib.planning import plan
from ttlib.ranks import check_tolerance, clip_ranks
from ttlib.shapes import check_integer, check_shape

Numbers = np.ndarray[Any, Any]

DEFAULT_RANKS = (4, 8, 16, 32, 64)
DEFAULT_EPS = (0.5, 0.2, 0.1, 0.05)
# Floating point may have made a sum of exact numbers so much too small.
_SLACK = 1e-12


@dataclass(frozen=True, slots=True)
class AtRank:
    """A train of the asked rank, clipped to `ranks`, and between which bounds its relative error lies.

    `error_low` <= error of the best train of these ranks <= error of TT-SVD <= `error_high`, relative to the norm of
    the weight.  `flops` is what one token costs by the strategy of `ttlib.plan` with the fewest operations, None for a
    shape without a boundary between rows and columns.
    """

    rank: int
    ranks: Ranks
    parameters: int
    compression: float
    error_low: float
    error_high: float
    flops: int | None


@dataclass(frozen=True, slots=True)
class AtTolerance:
    """Ranks with which TT-SVD certainly reaches a relative error of `eps`; all None where the spectra end before."""

    eps: float
    ranks: Ranks | None
    parameters: int | None
    compression: float | None


@dataclass(frozen=True, slots=True)
class ShapeAnalysis:
    """One tensor shape of a weight, at the ranks and tolerances that were asked for."""

    shape: Shape
    split: int | None
    at_ranks: tuple[AtRank, ...]
    at_eps: tuple[AtTolerance, ...]

    @property
    def lefts(self) -> Shape:
        """The product of the modes to the left of each inner bond, which is the key of its spectrum."""
        return CandidateShape(self.shape, self.split).lefts


@dataclass(frozen=True, slots=True)
class WeightAnalysis:
    """A weight matrix: its norm, the spectrum of every bond by its left side, and what they say of each shape.

    `certified` says that every spectrum is complete: then nothing but the floor of the spectra and the gap between a
    maximum and a sum over the bonds separates the two bounds on an error.  They hold otherwise, too, but are wider.
    """

    name: str
    rows: int
    cols: int
    dtype: str
    norm: float
    tokens: int
    spectra: Mapping[int, BondSpectrum]
    shapes: tuple[ShapeAnalysis, ...]

    @property
    def certified(self) -> bool:
        """Whether every spectrum is complete."""
        return all(spectrum.complete for spectrum in self.spectra.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers for `json.dumps`, the same for the same weight."""
        fields = asdict(self)
        written: dict[str, Any] = analysis_json.plain({**fields, "spectra": list(fields["spectra"].values())})
        return written

    @classmethod
    def from_json(cls, found: object) -> WeightAnalysis:
        """Return the analysis that `to_json` wrote; an equal one.

        Raises TTFileError naming the field that cannot be, with its value.
        """
        fields = analysis_json.checked_weight(found)
        spectra = {entry["left"]: BondSpectrum(**entry) for entry in fields.pop("spectra")}
        shapes = tuple(
            ShapeAnalysis(
                entry["shape"],
                entry["split"],
                tuple(AtRank(**at) for at in entry["at_ranks"]),
                tuple(AtTolerance(**at) for at in entry["at_eps"]),
            )
            for entry in fields.pop("shapes")
        )
        return cls(**fields, spectra=spectra, shapes=shapes)


def analyze_weight(
    name: str,
    matrix: Numbers,
    /,
    *,
    candidates: Sequence[CandidateShape] | None = None,
    ranks: Sequence[int] = DEFAULT_RANKS,
    eps: Sequence[float] = DEFAULT_EPS,
    tokens: int = 1024,
    dtype: str | None = None,
    limit: int = 1024,
    top: int | None = None,
) -> WeightAnalysis:
    """Say what error each candidate shape makes at each rank, and which ranks it needs for each error.

    >>> import numpy as np
    >>> W = np.random.default_rng(0).standard_normal((64, 48)) / (1 + np.arange(48)) ** 2
    >>> found = analyze_weight("layer.weight", W, ranks=[8], eps=[0.1])
    >>> at = found.shapes[0].at_ranks[0]
    >>> found.shapes[0].shape, at.parameters, at.error_low <= at.error_high < 0.05, found.certified
    ((64, 48), 896, True, True)
    >>> found.shapes[1].shape, found.shapes[1].at_eps[0].ranks
    ((8, 8, 6, 8), (1, 8, 4, 4, 1))

    Args:
        name: of the weight, for errors and results.
        matrix: (rows, cols), a numpy array or memory map of half, single or double precision; only read.
        candidates: tensor shapes; `shape_candidates` chooses some by default.
        ranks: caps, one for all bonds of a train, clipped to what a shape can carry.
        eps: relative Frobenius tolerances, 0 to 1.
        tokens: the batch over which FLOPs a token are counted: some ways assemble the matrix once for all of them.
        dtype: what the checkpoint calls the numbers, where it is not the dtype of the array.
        limit, top: as for `bond_spectra`.

    Returns:
        WeightAnalysis, with five significant digits of all that is measured; bounds are rounded outwards.

    Raises:
        ShapeError, RankError: for candidates of another size, or ranks, tolerances or tokens that cannot be.
        NonFiniteError, BackendError: as `bond_spectra`.

    No train is made.  From the tails t_k(r), the distances of the unfoldings to the nearest matrices of rank r, follow
    max_k t_k(r_k) <= error of the best train <= error of TT-SVD <= (sum_k t_k(r_k)^2)^1/2, and with
    t_k(r_k) <= eps ||A|| / (d - 1)^1/2 at each of d - 1 bonds TT-SVD is off by eps ||A|| at most (Oseledets 2011,
    Theorem 2.2 and Corollary 2.4).
    """
    caps = [_check_rank(rank) for rank in ranks]
    tolerances = [check_tolerance(value) for value in eps]
    tokens = check_integer(tokens, name="tokens")
    rows, cols = (int(side) for side in matrix.shape) if getattr(matrix, "ndim", 0) == 2 else (1, 1)
    shapes = shape_candidates(rows, cols) if candidates is None and rows * cols else tuple(candidates or ())
    lefts = {left for candidate in shapes for left in _check_candidate(candidate, rows, cols).lefts}
    spectra = bond_spectra(matrix, {rows, *lefts}, limit=limit, top=top, name=name)
    norm = spectra[rows].norm
    found = tuple(
        ShapeAnalysis(
            candidate.shape,
            candidate.split,
            tuple(_at_rank(candidate, rank, spectra, norm, tokens) for rank in caps),
            tuple(_at_tolerance(candidate, value, spectra, norm) for value in tolerances),
        )
        for candidate in shapes
    )
    rounded = {left: spectrum.rounded() for left, spectrum in spectra.items()}
    return WeightAnalysis(name, rows, cols, dtype or matrix.dtype.name, to_digits(norm), tokens, rounded, found)


def _check_rank(rank: int) -> int:
    try:
        return check_integer(rank, name="each of ranks")
    except ShapeError as error:
        raise RankError(str(error)) from None


def _check_candidate(candidate: CandidateShape, rows: int, cols: int) -> CandidateShape:
    check_shape(candidate.shape, size=rows * cols)
    split = candidate.split
    if split is not None and not (0 < split < candidate.order and math.prod(candidate.shape[:split]) == rows):
        msg = (
            f"split {split} of shape {candidate.shape} does not number the {rows} rows of a {rows} x {cols} matrix: "
            f"make the candidate with ttlib.checkpoint.candidates.candidate_shape"
        )
        raise ShapeError(msg)
    return candidate


def _at_rank(
    candidate: CandidateShape, rank: int, spectra: Mapping[int, BondSpectrum], norm: float, tokens: int
) -> AtRank:
    bonds = clip_ranks(candidate.shape, rank)
    bounds = [spectra[left].bounds(kept) for left, kept in zip(candidate.lefts, bonds[1:-1], strict=True)]
    low = max((low for low, _ in bounds), default=0.0) / (norm or 1.0)
    high = math.hypot(*(high for _, high in bounds)) / (norm or 1.0)
    parameters = count_parameters(candidate.shape, ranks=bonds)
    return AtRank(
        rank,
        bonds,
        parameters,
        compression(math.prod(candidate.shape), parameters),
        round_down(low * (1 - _SLACK)),
        round_up(min(1.0, high * (1 + _SLACK))),  # TT-SVD projects: it is never further off than zero
        None if candidate.split is None else _flops(candidate, bonds, tokens),
    )


def _flops(candidate: CandidateShape, ranks: Ranks, tokens: int) -> int:
    """Count by the leanest strategy, not by the one predicted to be fastest: that depends on the machine."""
    found = plan(candidate.shape, split=candidate.split or 0, ranks=ranks, tokens=tokens).candidates
    return -(-min(way.flops for way in found) // tokens)


def _at_tolerance(
    candidate: CandidateShape, eps: float, spectra: Mapping[int, BondSpectrum], norm: float
) -> AtTolerance:
    budget = eps * norm / math.sqrt(max(1, candidate.order - 1))
    found = [spectra[left].rank(budget) for left in candidate.lefts]
    known = [rank for rank in found if rank is not None]
    if len(known) < len(found):
        return AtTolerance(eps, None, None, None)
    # Clipping only takes away what noise has added: tail_k(n r) <= tail_k+1(r), so neighbours fit one another.
    ranks = clip_ranks(candidate.shape, known)
    parameters = count_parameters(candidate.shape, ranks=ranks)
    return AtTolerance(eps, ranks, parameters, compression(math.prod(candidate.shape), parameters))

"""What is known of the singular values of one unfolding: all of them, or the largest and a bound on the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, Any]

_DIGITS = 5


@dataclass(frozen=True, slots=True)
class BondSpectrum:
    """The singular values of the unfolding (left, right) of a tensor; all numbers are in the unit of its entries.

    >>> bond = BondSpectrum(left=4, right=9, values=(4.0, 3.0, 0.0, 0.0))
    >>> bond.norm, bond.tail(1), bond.rank(0.5), bond.complete
    (5.0, 3.0, 2, True)

    `values` are descending.  What lies beyond them has a norm of `rest` at most and of `rest_low` at least, 0 for a
    spectrum that is complete.  Values that are not complete are never too large, apart from rounding: what they leave
    to `rest` is what a truncation with the singular vectors found would lose.  Below `floor` the digits of values and
    tails are noise of the calculation.
    """

    left: int
    right: int
    values: tuple[float, ...]
    rest: float = 0.0
    rest_low: float = 0.0
    floor: float = 0.0

    @property
    def full_rank(self) -> int:
        """The largest rank that the unfolding can have."""
        return min(self.left, self.right)

    @property
    def complete(self) -> bool:
        """Whether every singular value is there."""
        return len(self.values) >= self.full_rank

    @property
    def norm(self) -> float:
        """The Frobenius norm of the tensor."""
        return self.tail(0)

    @property
    def residual(self) -> float:
        """The sum of the squares beyond `values`, at most."""
        return self.rest**2

    def tail(self, rank: int) -> float:
        """Return the root of the sum of squares beyond the leading *rank* values; not too small where incomplete."""
        return 0.0 if rank >= self.full_rank else float(_tails(self.values, self.rest)[min(rank, len(self.values))])

    def bounds(self, rank: int) -> tuple[float, float]:
        """Return what the distance to the nearest matrix of that *rank* is at least, and at most.

        The floor is taken off one and added to the other, so that they hold in exact arithmetic.
        """
        if rank >= self.full_rank:
            return 0.0, 0.0
        known = rank <= len(self.values)
        low = float(_tails(self.values, self.rest_low)[rank]) if known else 0.0
        # sqrt(low^2 - floor^2) without squares, which could overflow
        low = float(np.sqrt(low - self.floor) * np.sqrt(low + self.floor)) if low > self.floor else 0.0
        return low, float(np.hypot(self.tail(rank), self.floor))

    def rank(self, tolerance: float) -> int | None:
        """Return the smallest rank, 1 or more, that certainly loses at most *tolerance*, in the unit of the entries.

        None where it is beyond what is known.
        """
        losses = np.hypot(_tails(self.values, self.rest)[1:], self.floor)
        if self.complete:
            losses[self.full_rank - 1 :] = 0.0  # who keeps everything loses nothing, noise or not
        enough = np.flatnonzero(losses <= tolerance)
        return int(enough[0]) + 1 if enough.size else None

    def rounded(self) -> BondSpectrum:
        """Return the spectrum with five significant digits; the bounds on the rest and the floor move outwards."""
        return replace(
            self,
            values=tuple(map(to_digits, self.values)),
            rest=round_up(self.rest),
            rest_low=round_down(self.rest_low),
            floor=round_up(self.floor),
        )


def to_digits(number: float) -> float:
    """Return *number* with five significant digits, the nearest."""
    return float(f"{number:.{_DIGITS}g}")


def round_up(number: float) -> float:
    """Return the least number of five significant digits that is not below *number* >= 0."""
    near = to_digits(number)
    return near if near >= number else to_digits(near + _last_digit(near))


def round_down(number: float) -> float:
    """Return the largest number of five significant digits that is not above *number* >= 0."""
    near = to_digits(number)
    return near if near <= number else to_digits(near - _last_digit(near))


def _last_digit(number: float) -> float:
    exponent = int(f"{number:e}".partition("e")[2])
    return float(f"1e{exponent - _DIGITS + 1}")


def _tails(values: tuple[float, ...], rest: float) -> Numbers:
    """Return (k + 1,): the norm of what is beyond 0, 1, … k values, summed from the smallest up, squares unformed."""
    return np.hypot.accumulate(np.array([rest, *values[::-1]]))[::-1]

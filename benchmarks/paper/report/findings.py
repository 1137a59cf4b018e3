"""A claim of the paper and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.paper.report.aggregate import Evidence

Verdict = Literal["reproduced", "not reproduced", "wrong as printed", "not tested here"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict and the sentence behind it, with the numbers filled in."""

    verdict: Verdict
    because: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What the paper says.

    Attributes:
        where: its table, figure or section.
        says: the claim in one sentence, without our opinion of it.
        check: from all results, also none at all, to a finding.
    """

    where: str
    says: str
    check: Callable[[Evidence], Finding]


def reproduced_if(condition: bool, because: str) -> Finding:
    """A claim that was put to the test."""
    return Finding("reproduced" if condition else "not reproduced", because)


def misprint_if(condition: bool, because: str, otherwise: str) -> Finding:
    """A number of the paper beside what it must be."""
    return Finding("wrong as printed", because) if condition else Finding("reproduced", otherwise)


def untested(because: str) -> Finding:
    """A claim without a test here, and why."""
    return Finding("not tested here", because)

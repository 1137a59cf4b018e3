"""Rounding against torchTT's, on sums whose ranks fall back; and randomised rounding of a long sum."""

from __future__ import annotations

import importlib.util

import torch

import ttlib
from benchmarks.timing import compare
from ttlib.interop import to_torchtt

# modes, rank of each term, tolerance
CASES = [((20,) * 10, 10, 1e-10), ((20,) * 10, 25, 1e-10), ((4,) * 20, 50, 1e-10), ((200,) * 4, 20, 1e-10)]


def rows(rounds: int = 5) -> list[str]:
    """One line of the table a case."""
    if importlib.util.find_spec("torchtt") is None:
        return ["| torchTT is not installed | | | | |"]
    lines = []
    like = torch.zeros(1, dtype=torch.float64)
    for shape, rank, eps in CASES:
        a, b = (ttlib.random(shape, ranks=rank, seed=seed, like=like) for seed in (0, 1))
        total = a + b + a - b  # four terms, of the rank of one
        peer_total = to_torchtt(total)
        time = compare(lambda t=total, e=eps: t.round(eps=e), lambda t=peer_total, e=eps: t.round(e), rounds=rounds)
        ours, theirs = total.round(eps=eps), peer_total.round(eps)
        error = float((ours - 2 * a).norm() / ours.norm())
        peer_error = float((ttlib.interop.from_torchtt(theirs) - 2 * a).norm() / ours.norm())
        lines.append(
            f"| {len(shape)} modes of {shape[0]} | {max(total.ranks)} -> {max(ours.ranks)} / {max(theirs.R)} | "
            f"{1e3 * time.ours:.1f} | {time.ratio:.2f} | {error:.0e} / {peer_error:.0e} |"
        )
    return lines


def sum_rows(rounds: int = 3) -> list[str]:
    """Randomised rounding of a sum against exact rounding of the formed sum, both ours."""
    lines = []
    like = torch.zeros(1, dtype=torch.float64)
    for count in (4, 16):
        terms = [ttlib.random((20,) * 8, ranks=5, seed=k, like=like) / 4.0**k for k in range(count)]

        def exact(terms=terms):
            return sum(terms[1:], start=terms[0]).round(ranks=10)

        def sketched(terms=terms):
            return ttlib.round_sum(terms, ranks=10)

        time = compare(sketched, exact, rounds=rounds)
        total = sum(terms[1:], start=terms[0])
        errors = [float((train - total).norm() / total.norm()) for train in (sketched(), exact())]
        lines.append(
            f"| {count} terms of rank 5, 8 modes of 20, to rank 10 | {1e3 * time.ours:.1f} | {time.ratio:.2f} | "
            f"{errors[0]:.3f} / {errors[1]:.3f} |"
        )
    return lines


def table() -> str:
    """The tables as Markdown."""
    head = [
        "| train | ranks -> ours / torchTT | CPU ms | time / torchTT | error ours / torchTT |",
        "|---|---|---|---|---|",
    ]
    sums = ["", "| sum | CPU ms | time / exact rounding | error sketched / exact |", "|---|---|---|---|"]
    return "\n".join(head + rows() + sums + sum_rows())

"""The table of all strategies, as `ContractionPlan.explain` prints it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ttlib.planning.candidates import Candidate
from ttlib.planning.network import Network

_TITLES = ("strategy", "FLOPs", "bytes", "kernels", "largest", "saved", "predicted", "")


def explain(network: Network, found: Sequence[Candidate], pick: Candidate) -> str:
    """Return the problem, one line a strategy, and one sentence why *pick* was picked."""
    rows, cols = math.prod(network.shape[: network.split]), math.prod(network.shape[network.split :])
    table = [_TITLES, *(_cells(candidate, "<- picked" * (candidate is pick)) for candidate in found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    head, *lines = (
        "  ".join(
            cell.rjust(width) if 0 < column < len(_TITLES) - 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
    rule = "-" * max(map(len, (head, *lines)))
    passes = "forward and backward" if pick.training else "forward"
    return "\n".join(
        [
            f"y = x W for {network.tokens:,} token(s), {pick.dtype}, {passes}; machine model: {pick.machine.library}",
            f"W {rows:,} x {cols:,}, shape {network.shape}, split {network.split}, ranks {network.ranks}",
            rule,
            head,
            rule,
            *lines,
            rule,
            _reason(found, pick),
        ]
    )


def _cells(candidate: Candidate, mark: str) -> tuple[str, ...]:
    return (
        candidate.strategy,
        f"{candidate.flops:.3e}",
        f"{candidate.bytes_moved:.3e}",
        str(len(candidate.kernels)),
        f"{candidate.program.peak_elements:,}",
        f"{candidate.saved_elements:,}",
        _duration(candidate.seconds),
        mark,
    )


def _reason(found: Sequence[Candidate], pick: Candidate) -> str:
    second = min((candidate for candidate in found if candidate is not pick), key=lambda candidate: candidate.seconds)
    ratio, share = second.seconds / pick.seconds, pick.overhead / pick.seconds
    verdict = f"{ratio:.2f} times the speed of" if ratio > 1.005 else "as fast as"
    return (
        f"{pick.strategy} is {verdict} {second.strategy}, the next best: {share:.0%} of its time is overhead of a call "
        f"and its {len(pick.kernels)} kernels, the rest arithmetic and traffic."
    )


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"

"""What a benchmark leaves behind: plain values that become JSON and the page."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Fact = str | float | list[float | None] | None


@dataclass
class Measure:
    """What was seen of one way to do the work; `missing` says why there is nothing to see."""

    seconds: float | None = None  # CPU, of one call, median
    ratio: float | None = None  # CPU seconds of this one / of ours, median over pairs timed one after the other
    rounds: int = 0
    error: float | None = None
    peak_bytes: int | None = None  # on top of what was there before the call
    missing: str | None = None


@dataclass
class Target:
    """A number to reach, beside the one that was measured; None where there was nothing to measure it against."""

    what: str
    measured: float | None
    limit: float
    bound: Literal["least", "most"]

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None: not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.bound == "least" else self.measured <= self.limit


@dataclass
class Record:
    """One case of one table."""

    table: str
    case: str
    ours: Measure
    peers: dict[str, Measure] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)

    def speed_up(self, peer: str, limit: float) -> None:
        """Ask for at least `limit` times the CPU seconds of ours from a peer that takes part."""
        if peer in self.peers:
            self.targets.append(Target(peer, self.peers[peer].ratio, limit, "least"))

    def cost(self, peer: str, limit: float) -> None:
        """Ask for at most `limit` times the CPU seconds of a peer that takes part."""
        if peer in self.peers:
            ratio = self.peers[peer].ratio
            self.targets.append(Target(f"time / {peer}", ratio and 1 / ratio, limit, "most"))

    def at_most(self, what: str, measured: float | None, limit: float) -> None:
        """Ask for a number no larger than `limit`."""
        self.targets.append(Target(what, measured, limit, "most"))

    @property
    def least_peer_error(self) -> float | None:
        """The smallest error among the peers, None where none was measured."""
        return min((peer.error for peer in self.peers.values() if peer.error is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON knows it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Record:
        """The record that `to_json` wrote."""
        return cls(
            table=value["table"],
            case=value["case"],
            ours=Measure(**value["ours"]),
            peers={name: Measure(**peer) for name, peer in value["peers"].items()},
            facts=value["facts"],
            targets=[Target(**target) for target in value["targets"]],
        )


def quotient(numerator: float | None, denominator: float | None) -> float | None:
    """numerator / denominator, or None where one was not measured."""
    return numerator / denominator if numerator is not None and denominator else None

"""Every strategy with its program and its costs, and the choice between them.  Integers and predicted times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

from ttlib.planning.kernels import Copy, Product
from ttlib.planning.lowering import Program, lower
from ttlib.planning.machine import ITEMSIZES, MachineModel
from ttlib.planning.network import Network, Path
from ttlib.planning.strategies import Strategy, paths

# Differences smaller than this mean nothing: then the strategy that is listed first, the plainer one, is taken.
_MARGIN = 0.97


@dataclass(frozen=True)
class Candidate:
    """One strategy for one problem: how it is carried out, what it costs and how long it should take."""

    strategy: Strategy
    path: Path
    program: Program
    training: bool
    dtype: str
    machine: MachineModel

    @property
    def kernels(self) -> tuple[Product | Copy, ...]:
        """All that is carried out, forward and, in training, backward for the gradients of x and of every core."""
        backward = [kernel for kernel in reversed(self.program.kernels) for kernel in kernel.backward()]
        return (*self.program.kernels, *backward) if self.training else self.program.kernels

    @property
    def flops(self) -> int:
        """Multiplications and additions, each counted."""
        return sum(kernel.flops for kernel in self.kernels)

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written by all kernels."""
        return sum(kernel.elements for kernel in self.kernels) * ITEMSIZES[self.dtype]

    @property
    def saved_elements(self) -> int:
        """Elements kept from forward to backward, apart from x and the cores; none at inference."""
        return self.program.saved_elements if self.training else 0

    @property
    def overhead(self) -> float:
        """The part of the predicted time that does not depend on sizes."""
        overhead = self.machine.training if self.training else self.machine.inference
        return overhead.call + len(self.kernels) * overhead.kernel

    @cached_property
    def seconds(self) -> float:
        """The predicted time of one call."""
        call = (self.machine.training if self.training else self.machine.inference).call
        return call + sum(self.machine.seconds(k, dtype=self.dtype, training=self.training) for k in self.kernels)


def candidates(network: Network, *, training: bool, dtype: str, machine: MachineModel) -> tuple[Candidate, ...]:
    """Return one candidate a strategy; of two ways to go core by core, the better."""

    @cache  # strategies have most of their small products in common
    def seconds(kernel: Product | Copy) -> float:
        kernels = (kernel, *kernel.backward()) if training else (kernel,)
        return sum(machine.seconds(each, dtype=dtype, training=training) for each in kernels)

    best: dict[Strategy, Candidate] = {}
    for strategy, path in paths(network):
        program = lower(network, path, seconds)
        candidate = Candidate(strategy, path, program, training, dtype, machine)
        if strategy not in best or candidate.seconds < best[strategy].seconds:
            best[strategy] = candidate
    return tuple(best.values())


def fastest(found: tuple[Candidate, ...]) -> Candidate:
    """Return the first candidate whose predicted time differs from the least by less than the predictions are worth."""
    least = min(candidate.seconds for candidate in found)
    return next(candidate for candidate in found if _MARGIN * candidate.seconds <= least)

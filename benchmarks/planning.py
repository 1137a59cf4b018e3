"""Predicted against measured time of every strategy of `ttlib.plan`, and whether the pick was the fastest."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch

import ttlib

LAYERS = [
    ([8, 8, 12, 8, 8], 3, 5),
    ([8, 8, 8, 8, 12], 2, 5),
    ([8, 8, 12, 8], 3, 5),
    ([8, 8, 8, 12], 1, 5),
    ([16, 16, 16, 4, 4, 4], 3, 5),
    ([16, 16, 16, 4, 4, 4], 3, 16),
    ([8, 8, 8, 8], 2, 64),
]
TOKENS = (1, 16, 128, 2048)
# A pick this near to the fastest strategy counts as right.
TOLERANCE = 1.10
ROUNDS = 9
ROUND_SECONDS = 4e-3


def problems() -> Iterator[ttlib.ContractionPlan]:
    """The plans to check."""
    for shape, split, ranks in LAYERS:
        for tokens in TOKENS:
            for training in (False, True):
                yield ttlib.plan(shape, split=split, ranks=ranks, tokens=tokens, training=training)


def measure(plan: ttlib.ContractionPlan) -> dict[str, float]:
    """Median CPU seconds of every strategy, in turn, each carried out as often as fits into a few milliseconds."""
    works = {candidate.strategy: work(plan, candidate.strategy) for candidate in plan.candidates}
    counts = {}
    for strategy, run in works.items():
        run()
        counts[strategy] = max(1, int(ROUND_SECONDS / max(seconds(run, 1), 1e-6)))
    rounds = [{strategy: seconds(run, counts[strategy]) for strategy, run in works.items()} for _ in range(ROUNDS)]
    return {strategy: statistics.median(each[strategy] for each in rounds) for strategy in works}


def work(plan: ttlib.ContractionPlan, strategy: str) -> Callable[[], object]:
    """One call of a strategy: forward, or forward and backward to x and all cores."""
    generator = torch.Generator().manual_seed(0)
    network, training = plan.network, plan.pick.training
    plan = dataclasses.replace(plan, strategy=strategy)
    rows = math.prod(network.shape[: network.split])
    cores = [torch.randn(shape, generator=generator) / math.prod(shape) ** 0.5 for shape in network.core_shapes]
    x = torch.randn(network.tokens, rows, generator=generator)
    if not training:
        return lambda: plan.execute(cores, x)
    leaves = [array.requires_grad_() for array in (*cores, x)]
    upstream = torch.ones_like(plan.execute(cores, x))
    return lambda: torch.autograd.grad(plan.execute(cores, x), leaves, upstream)


def seconds(run: Callable[[], object], count: int) -> float:
    """CPU seconds of one run."""
    start = time.process_time()
    for _ in range(count):
        run()
    return (time.process_time() - start) / count


@dataclasses.dataclass(frozen=True)
class Row:
    """One plan with the measured seconds of its strategies."""

    plan: ttlib.ContractionPlan
    measured: dict[str, float]

    @property
    def predicted(self) -> dict[str, float]:
        """The seconds that the model says."""
        return {candidate.strategy: candidate.seconds for candidate in self.plan.candidates}

    def loss(self, strategy: str) -> float:
        """How many times the seconds of the fastest."""
        return self.measured[strategy] / min(self.measured.values())

    def line(self) -> str:
        """A line of the table."""
        network, predicted = self.plan.network, self.predicted
        times = [f"{1e6 * predicted[strategy]:.0f} / {1e6 * s:.0f}" for strategy, s in self.measured.items()]
        return (
            f"| {list(network.shape)}, {network.split} | {network.ranks[1]} | {network.tokens} | "
            f"{'fwd+bwd' if self.plan.pick.training else 'fwd'} | {' | '.join(times)} | {self.plan.strategy} | "
            f"{self.loss(self.plan.strategy):.2f} |"
        )


def verdict(rows: list[Row]) -> str:
    """How often the pick was right, how often one strategy for all would have been, and how good predictions are."""

    def share(strategy_of: Callable[[Row], str]) -> str:
        return f"{sum(row.loss(strategy_of(row)) <= TOLERANCE for row in rows) / len(rows):.0%}"

    always = ", ".join(f"`{name}` {share(lambda _, name=name: name)}" for name in rows[0].measured)
    errors = [abs(math.log2(seconds / row.predicted[name])) for row in rows for name, seconds in row.measured.items()]
    return (
        f"The pick was the fastest or within {TOLERANCE - 1:.0%} of it in {share(lambda row: row.plan.strategy)} of "
        f"{len(rows)} plans; one strategy for all would have been: {always}.  Half of the predictions were within a "
        f"factor of {2 ** statistics.median(errors):.2f} of the measurement."
    )


def table() -> str:
    """The table as Markdown, made after a calibration of its own."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, TTLIB_MACHINE=f"{folder}/machine.json"):
        ttlib.calibrate(like=torch.zeros(()))
        rows = [Row(plan, measure(plan)) for plan in problems()]
    head = [
        "Predicted / measured microseconds:",
        "",
        "| shape, split | rank | tokens | passes | reconstruct | factors | cores | tree | pick | pick / fastest |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(row.line() for row in rows), "", verdict(rows)])

"""Fixtures of the suites: how large the work is, and the race that records what was seen."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from benchmarks import measure
from benchmarks.records import Record


@dataclass(frozen=True)
class Scale:
    """How much work: "full" as in the tables, "quick" with fewer rounds, "tiny" to try the machinery itself."""

    name: str
    most_rounds: int
    sample_seconds: float

    @property
    def tiny(self) -> bool:
        """Whether the numbers mean nothing."""
        return self.name == "tiny"

    def modes(self, modes: tuple[int, ...]) -> tuple[int, ...]:
        """The modes, cut down where only the machinery is tried."""
        return tuple(min(mode, 4) for mode in modes[:6]) if self.tiny else modes


SCALES = {scale.name: scale for scale in (Scale("full", 100, 0.02), Scale("quick", 3, 0.02), Scale("tiny", 1, 0.0))}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line choose the scale."""
    parser.addoption("--scale", choices=list(SCALES), default="full")


def pytest_collection_finish() -> None:
    """Spare every later collection of garbage the many objects of the imported libraries."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def scale(request: pytest.FixtureRequest) -> Scale:
    """The scale of this run."""
    return SCALES[request.config.getoption("--scale")]


@pytest.fixture
def race(benchmark, scale: Scale) -> Iterator[Callable[..., Record]]:
    """`measure.race`, whose record goes with the benchmark into the JSON file once the suite has added to it."""
    made: list[Record] = []

    @functools.wraps(measure.race)
    def run(*, rounds: int, **options) -> Record:
        rounds = min(rounds, scale.most_rounds)
        made.append(measure.race(benchmark, rounds=rounds, sample_seconds=scale.sample_seconds, **options))
        return made[-1]

    yield run
    for record in made:  # one, unless the suite failed before it raced: pytest-benchmark allows one a test
        benchmark.extra_info["record"] = record.to_json()

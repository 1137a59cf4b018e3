"""A journalled run over the weights of a checkpoint, which analysis and compression have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from ttlib._json import Json
from ttlib.checkpoint.engines import Engine, LocalEngine, Task
from ttlib.checkpoint.engines.protocol import Function
from ttlib.checkpoint.entries import TensorEntry
from ttlib.checkpoint.journal import Journal

# Blocks, Gram matrices and their eigenvectors, whatever the size of the weight.
_WORKING_MEMORY = 192 << 20
_MAPPED = ("F16", "BF16", "F32", "F64")  # these are read where they lie, quantised ones are widened in memory


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: weights, and the bytes of them, done and in all."""

    name: str
    done: int
    total: int
    bytes_done: int
    bytes_total: int


Watch = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Run:
    """What runs, on what, and where it is written down.

    Attributes:
        function: called with the arguments of each weight, returns a dict for JSON.
        journal: the file; None: nothing is written.
        header: all that decides the results.
        resume: go on with the journal that is there.
        engine: None: the processors of this machine.
        watch: called after each weight.
    """

    function: Function
    header: Json
    journal: Path | None = None
    resume: bool = False
    engine: Engine | None = None
    watch: Watch | None = None

    def records(
        self, weights: Sequence[TensorEntry], arguments: Callable[[TensorEntry], tuple[object, ...]]
    ) -> Mapping[str, Json]:
        """Return what became of each weight, by name: {"name", …what the function returned} or {"name", "failed"}.

        What failed is not written down: it may succeed when the run is resumed.
        """
        begin = Journal.resume if self.resume else Journal.create
        with nullcontext() if self.journal is None else begin(self.journal, self.header) as journal:
            found = {} if journal is None else {str(record["name"]): record for record in journal.records()}
            tasks = [_task(entry, arguments(entry)) for entry in weights if entry.name not in found]
            for outcome in (self.engine or LocalEngine()).run(self.function, tasks):
                if outcome.result is None:
                    found[outcome.key] = {"name": outcome.key, "failed": outcome.error}
                else:
                    found[outcome.key] = {"name": outcome.key, **outcome.result}
                    if journal is not None:
                        journal.append(found[outcome.key])
                if self.watch is not None:
                    self.watch(_progress(outcome.key, found, weights))
        return found


def _task(entry: TensorEntry, arguments: tuple[object, ...]) -> Task:
    copied = 0 if entry.dtype in _MAPPED else 4 * entry.parameters
    return Task(
        key=entry.name,
        arguments=arguments,
        cost=entry.parameters * min(entry.shape),
        memory=copied + _WORKING_MEMORY,
    )


def _progress(name: str, found: Mapping[str, Json], weights: Sequence[TensorEntry]) -> Progress:
    done = [entry for entry in weights if entry.name in found]
    return Progress(
        name,
        len(done),
        len(weights),
        sum(entry.nbytes for entry in done),
        sum(entry.nbytes for entry in weights),
    )

"""A cell: everything that decides the outcome of one training run, as plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Value = str | int | float | bool | None | tuple["Value", ...]
Slice = Literal["tune", "report"]
DType = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a run may see: the same for every method of a table.

    Attributes:
        steps: optimiser steps, on each task of a sequence.
        batch_size: rows a step.
        max_length: tokens a row is cut to.
        examples: training rows to draw from (by the seed); None: all of them.
        scored: rows that the score is taken on, spread evenly over those that are held back; None: all of them.
    """

    steps: int
    batch_size: int = 16
    max_length: int = 128
    examples: int | None = None
    scored: int | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: two cells that are equal give the same numbers on the same machine.

    Attributes:
        model: a name of `models.MODELS`.
        method: a name of `methods.METHODS`.
        tasks: names of `tasks.TASKS`; more than one are learnt one after the other (the paper's Table 4).
        seed: draws the rows, their order, the head and the adapter.
        budget: the same for every method of a table, by task where they differ.
        learning_rate: None while it still has to be picked by the cells of the same method on "tune".
        options: settings of the method that differ from its default, sorted by name.
        scored_on: "tune": a slice of the training rows that no run trains on; "report": the official development rows.
        curve_every: steps between evaluations on the way; 0: only at the end.
        dtype: of the frozen weights and of the products; what is trained is in float32 either way.
    """

    model: str
    method: str
    tasks: tuple[str, ...]
    seed: int
    budget: Budget
    learning_rate: float | None = None
    options: tuple[tuple[str, Value], ...] = ()
    scored_on: Slice = "report"
    curve_every: int = 0
    dtype: DType = "float32"

    @property
    def key(self) -> str:
        """A short name that follows from all the values: what a finished run is found by."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """The cell in words, for a log."""
        options = "".join(f" {name}={value}" for name, value in self.options)
        model = self.model if self.dtype == "float32" else f"{self.model} in {self.dtype}"
        rate = "" if self.learning_rate is None else f" lr {self.learning_rate:g}"
        return f"{model} {self.method}{options} {' > '.join(self.tasks)} seed {self.seed}{rate} ({self.scored_on})"

    def to_json(self) -> dict[str, Any]:
        """The cell as JSON knows it; the usual dtype is left out: results from before there was another stay valid."""
        plain = {**asdict(self), "tasks": list(self.tasks), "options": plain_options(self.options)}
        if self.dtype == "float32":
            del plain["dtype"]
        return plain

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Cell:
        """The cell that `to_json` wrote."""
        return cls(
            **{
                **value,
                "tasks": tuple(value["tasks"]),
                "budget": Budget(**value["budget"]),
                "options": options(**value["options"]),
            }
        )


def options(**values: Any) -> tuple[tuple[str, Value], ...]:
    """Method options in the form that a cell holds: sorted, and tuples in place of lists."""
    return tuple((name, _frozen(values[name])) for name in sorted(values))


def plain_options(chosen: Iterable[tuple[str, Value]]) -> dict[str, Any]:
    """The options as JSON knows them: what `options` takes."""
    return {name: _listed(value) for name, value in chosen}


def _frozen(value: Any) -> Value:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _listed(value: Value) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value

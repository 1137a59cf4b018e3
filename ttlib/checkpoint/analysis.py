"""Analysis of a whole checkpoint: weight by weight, journalled, on any engine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttlib._json import Json
from ttlib.checkpoint import json_file
from ttlib.checkpoint.candidates import shape_candidates
from ttlib.checkpoint.engines import Engine
from ttlib.checkpoint.reader import Checkpoint, open_checkpoint
from ttlib.checkpoint.run import Run, Watch
from ttlib.checkpoint.selection import Selection, Skipped, select
from ttlib.checkpoint.weight import DEFAULT_EPS, DEFAULT_RANKS, AtRank, AtTolerance, WeightAnalysis, analyze_weight
from ttlib.errors import NonFiniteError, TTFileError
from ttlib.ranks import check_tolerance, expand_ranks
from ttlib.shapes import check_integer

FORMAT = "ttlib-analysis"
VERSION = 1
JOURNAL = "journal.jsonl"
TABLE = "analysis.json"
DEFAULT_SHAPES = 3

_REMEDY = "analyse the checkpoint again"


@dataclass(frozen=True, slots=True)
class AnalysisSettings:
    """What is asked of every weight.

    Attributes:
        shapes: how many tensor shapes are tried.
        ranks: the ranks at which the error is told.
        eps: the relative errors for which ranks are told.
        include, exclude: patterns of names, as in a shell.
    """

    shapes: int = DEFAULT_SHAPES
    ranks: tuple[int, ...] = DEFAULT_RANKS
    eps: tuple[float, ...] = DEFAULT_EPS
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_integer(self.shapes, name="shapes")
        for rank in self.ranks:
            expand_ranks((1, 1), rank)
        for tolerance in self.eps:
            check_tolerance(tolerance)

    def to_json(self) -> Json:
        """The settings as JSON knows them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AnalysisSettings:
        """The settings that `to_json` wrote."""
        settings: dict[str, Any] = {name: tuple(own) if isinstance(own, list) else own for name, own in value.items()}
        return cls(**settings)


@dataclass(frozen=True, slots=True)
class CheckpointAnalysis:
    """What `analyze` found; the same values for the same checkpoint and settings, whatever ran where and how often.

    Attributes:
        fingerprint: of the checkpoint.
        settings: what was asked.
        weights: in the order of the checkpoint.
        skipped: matrices that were left out, with the reason: NaN, a dtype that cannot be read, a damaged file.
        untouched_parameters: the numbers in all other tensors of the checkpoint.
    """

    fingerprint: str
    settings: AnalysisSettings
    weights: tuple[WeightAnalysis, ...]
    skipped: tuple[Skipped, ...]
    untouched_parameters: int

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the results as a flat table: a row for each weight, shape and rank or tolerance."""
        for weight in self.weights:
            for own in weight.shapes:
                fixed = {
                    "name": weight.name,
                    "rows": weight.rows,
                    "cols": weight.cols,
                    "dtype": weight.dtype,
                    "shape": "x".join(map(str, own.shape)),
                }
                answers: tuple[AtRank | AtTolerance, ...] = (*own.at_ranks, *own.at_eps)
                yield from ({**fixed, **_row(at)} for at in answers)

    def to_json(self) -> Json:
        """The analysis as JSON knows it."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "checkpoint": self.fingerprint,
            "settings": self.settings.to_json(),
            "weights": [weight.to_json() for weight in self.weights],
            "skipped": [asdict(skipped) for skipped in self.skipped],
            "untouched_parameters": self.untouched_parameters,
        }

    def save(self, path: str | os.PathLike[str], /) -> None:
        """Write the analysis as JSON, the same bytes for the same analysis; TTFileError where that cannot be done."""
        json_file.store(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str], /) -> CheckpointAnalysis:
        """Read what `save` wrote; TTFileError names what cannot be."""
        return json_file.load(path, _parse, what="the analysis", form=(FORMAT, VERSION), remedy=_REMEDY)


def analyze(
    checkpoint: str | os.PathLike[str],
    /,
    *,
    output: str | os.PathLike[str] | None = None,
    shapes: int = DEFAULT_SHAPES,
    ranks: Sequence[int] = DEFAULT_RANKS,
    eps: Sequence[float] = DEFAULT_EPS,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    engine: Engine | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> CheckpointAnalysis:
    """Tell for every matrix of a checkpoint what trains of it cost and lose, one weight in memory at a time.

    >>> import tempfile, numpy as np
    >>> from safetensors.numpy import save_file
    >>> from ttlib.checkpoint import LocalEngine
    >>> W = np.outer(np.arange(1.0, 17), np.ones(64))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"layer.0.weight": W}, f"{folder}/model.safetensors")
    ...     found = analyze(f"{folder}/model.safetensors", engine=LocalEngine(workers=0))
    >>> [weight.name for weight in found.weights]
    ['layer.0.weight']

    Args:
        checkpoint: a .safetensors or .gguf file, a folder of them with or without an index, or the index.
        output: a folder for the journal of the run and its table, `analysis.json`; None: nothing is written.
        shapes: how many tensor shapes are tried on a weight; the first is the matrix itself.
        ranks: at which the error is told, between what is certainly lost and what certainly is not.
        eps: for which the ranks are told that keep the relative error below.
        include, exclude: patterns of names, as in a shell.
        engine: what runs it; default: the processors of this machine, a process each.
        resume: go on with the journal in *output*: weights that are in it are not read again.
        watch: called after each weight.

    Weights that cannot be analysed are skipped and named.  A run that is cut short, however, loses only what was being
    worked at; the table of a resumed run is that of an uninterrupted one, byte for byte.

    Raises:
        FileNotFoundError, TTFileError: no checkpoint that can be read; *output* cannot be written, or holds another
            run.
        ShapeError, RankError: settings that cannot be, or no matrix of these names.
        BackendError: the engine has nothing to run on.
    """
    settings = AnalysisSettings(shapes, tuple(ranks), tuple(eps), tuple(include), tuple(exclude))
    opened = open_checkpoint(checkpoint)
    selection = select(opened.entries.values(), include=settings.include, exclude=settings.exclude)
    path, asked = str(opened.path.absolute()), settings.to_json()
    run = Run(
        analyze_tensor,
        header={"checkpoint": opened.fingerprint, "settings": asked},
        journal=None if output is None else Path(output) / JOURNAL,
        resume=resume,
        engine=engine,
        watch=watch,
    )
    records = run.records(selection.weights, lambda entry: (path, entry.name, asked))
    analysis = _collect(opened, selection, settings, records)
    if output is not None:
        analysis.save(Path(output) / TABLE)
    return analysis


def analyze_tensor(checkpoint: str, name: str, settings: Json) -> Json:
    """Analyse one weight; what an engine runs, in any process that can read the checkpoint."""
    chosen = AnalysisSettings.from_json(settings)
    try:
        opened = open_checkpoint(checkpoint)
        entry, matrix = opened.entries[name], opened.words(name)
        candidates = shape_candidates(*entry.shape, count=chosen.shapes)
        weight = analyze_weight(
            name, matrix, candidates=candidates, ranks=chosen.ranks, eps=chosen.eps, dtype=entry.dtype
        )
    except (NonFiniteError, TTFileError) as error:
        return {"skipped": str(error)}
    return {"weight": weight.to_json()}


def _row(at: AtRank | AtTolerance) -> dict[str, Any]:
    """One row, with the same columns for both questions; the answer to the other one is None."""
    asked = ("rank", "eps", "ranks", "parameters", "compression", "error_low", "error_high", "flops")
    row = {column: getattr(at, column, None) for column in asked}
    return {**row, "ranks": None if row["ranks"] is None else " ".join(map(str, row["ranks"]))}


def _collect(
    checkpoint: Checkpoint, selection: Selection, settings: AnalysisSettings, records: Mapping[str, Json]
) -> CheckpointAnalysis:
    weights: list[WeightAnalysis] = []
    skipped = [*selection.skipped, *(Skipped(fault.subject, fault.message) for fault in checkpoint.faults)]
    for entry in selection.weights:
        record = records[entry.name]
        if "weight" in record:
            weights.append(WeightAnalysis.from_json(record["weight"]))
        else:
            skipped.append(Skipped(entry.name, record.get("skipped") or record["failed"]))
    every = sum(entry.parameters for entry in checkpoint.entries.values())
    untouched = every - sum(weight.rows * weight.cols for weight in weights)
    return CheckpointAnalysis(checkpoint.fingerprint, settings, tuple(weights), tuple(skipped), untouched)


def _parse(content: Json) -> CheckpointAnalysis:
    return CheckpointAnalysis(
        fingerprint=content["checkpoint"],
        settings=AnalysisSettings.from_json(content["settings"]),
        weights=tuple(WeightAnalysis.from_json(weight) for weight in content["weights"]),
        skipped=tuple(Skipped(**skipped) for skipped in content["skipped"]),
        untouched_parameters=content["untouched_parameters"],
    )

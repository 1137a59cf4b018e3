"""Compression of a whole checkpoint: to a budget, to a tolerance, or by a plan."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ttlib._json import Json
from ttlib._types import Shape
from ttlib.checkpoint.analysis import DEFAULT_SHAPES, analyze
from ttlib.checkpoint.archive import (
    DENSE,
    MANIFEST,
    Archive,
    CompressedWeight,
    copy_others,
    digest,
    train_files,
    write_archive,
)
from ttlib.checkpoint.candidates import shape_candidates
from ttlib.checkpoint.engines import Engine
from ttlib.checkpoint.entries import DTYPES, TensorEntry
from ttlib.checkpoint.numbers import NDArray
from ttlib.checkpoint.plan_file import CompressionPlan
from ttlib.checkpoint.planning import plan_compression
from ttlib.checkpoint.reader import Checkpoint, open_checkpoint, open_whole
from ttlib.checkpoint.run import Run, Watch
from ttlib.checkpoint.selection import Selection, select
from ttlib.checkpoint.smallest import smallest
from ttlib.checkpoint.train_file import core_dtype, write_train
from ttlib.checkpoint.weight import analyze_weight
from ttlib.checkpoint.writer import RawBytes, TensorSpec, write_safetensors
from ttlib.decomposition import decompose
from ttlib.errors import NonFiniteError, RankError, ShapeError, TTFileError
from ttlib.ranks import check_tolerance
from ttlib.shapes import check_integer
from ttlib.tensor_train import TensorTrain

JOURNAL = "journal.jsonl"
PLAN = "plan.json"


def compress(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    /,
    *,
    budget: float | None = None,
    eps: float | None = None,
    plan: CompressionPlan | None = None,
    shapes: int = DEFAULT_SHAPES,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    engine: Engine | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> Archive:
    """Write a checkpoint with tensor trains in place of its matrices: to a budget, to a tolerance, or by a plan.

    >>> import tempfile, numpy as np
    >>> from safetensors.numpy import save_file
    >>> from ttlib.checkpoint import LocalEngine
    >>> W = np.outer(np.arange(1.0, 17), np.ones(64))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"layer.0.weight": W}, f"{folder}/model.safetensors")
    ...     found = compress(f"{folder}/model.safetensors", f"{folder}/small", eps=1e-3, engine=LocalEngine(workers=0))
    >>> found.parameters_before, found.parameters
    (1024, 32)

    Args:
        checkpoint: a .safetensors or .gguf file, a folder of them with or without an index, or the index.
        output: a new folder; `ttlib.checkpoint.decompress` reads it.
        budget: the share of the checkpoint's parameters to keep; it is spent where it saves the most error.
        eps: the largest relative error of each weight, before its cores are rounded to the dtype of the weight.
        plan: which weights become trains, and how; as from `plan_compression` or a file.
        shapes, include, exclude, engine, watch: as for `analyze`.
        resume: go on with the run that was cut short in *output*.

    A weight that a train would not make smaller, or that holds NaN, stays as it is; so do all other tensors.

    Raises:
        FileNotFoundError, TTFileError: no checkpoint that can be read whole; *output* cannot be written, or holds
            another run.
        RankError: none or several of budget, eps and plan, or one that cannot be.
        ShapeError: a plan for other weights than these.
        BackendError: the engine has nothing to run on.
    """
    opened, output = open_whole(checkpoint), Path(output).resolve()
    if (output / MANIFEST).exists():
        msg = f"{os.fspath(output)!r} holds a compressed checkpoint already: choose another folder, or remove it"
        raise TTFileError(msg)
    selection = select(opened.entries.values(), include=include, exclude=exclude)
    if sum(option is not None for option in (budget, eps, plan)) != 1:
        msg = f"give one of budget ({budget!r}), eps ({eps!r}) and plan ({plan!r})"
        raise RankError(msg)
    if budget is not None:
        options = {"shapes": shapes, "include": include, "exclude": exclude, "engine": engine}
        plan = plan_for_budget(checkpoint, output, budget=budget, resume=resume, watch=watch, **options)
    how = _by_tolerance(selection, eps, shapes) if plan is None else _by_plan(selection, plan, opened)
    chosen = [entry for entry in selection.weights if entry.name in how]
    files = train_files(list(opened.entries))
    path = str(opened.path.absolute())
    run = Run(
        compress_tensor,
        header={"checkpoint": opened.fingerprint, "weights": how},
        journal=output / JOURNAL,
        resume=resume,
        engine=engine,
        watch=watch,
    )
    records = run.records(chosen, lambda entry: (path, entry.name, how[entry.name], str(output), files[entry.name]))
    return _finish(opened, output, records)


def plan_for_budget(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    /,
    *,
    budget: float,
    **options: Any,
) -> CompressionPlan:
    """Analyse a checkpoint and choose shapes and ranks for a budget; the first half of `compress`.

    Args:
        checkpoint, budget: as for `compress`.
        output: the folder for `plan.json`, to be looked at or changed, and for the analysis.
        options: of `analyze`.
    """
    analysis = analyze(checkpoint, output=Path(output) / "analysis", **options)
    plan = plan_compression(analysis, budget=budget)
    plan.save(Path(output) / PLAN)
    return plan


def compress_tensor(checkpoint: str, name: str, how: Json, output: str, file: str) -> Json:
    """Compress one weight into its file; what an engine runs, in any process that can read and write both places."""
    opened = open_checkpoint(checkpoint)
    entry = opened.entries[name]
    try:
        modes = how["shape"] if "shape" in how else _smallest_shape(name, opened.words(name), how)
        if modes is None:
            return {"dense": f"no train of it is smaller at a relative error of {how['eps']:g}"}
        train, report = decompose(
            opened.rows(name), shape=modes, ranks=how.get("ranks"), eps=how.get("eps"), return_report=True
        )
    except NonFiniteError as error:
        return {"dense": str(error)}
    if train.parameters >= entry.parameters:
        return {"dense": f"its train has {train.parameters} parameters, not fewer than its {entry.parameters} entries"}
    path = Path(output, file)
    stored = write_train(path, train, dtype=core_dtype(entry.dtype))
    weight = CompressedWeight(
        file=file,
        sha256=digest(path),
        dtype=entry.dtype,
        shape=entry.shape,
        modes=train.shape,
        ranks=train.ranks,
        parameters=train.parameters,
        relative_error=report.relative_error + _rounding_error(train, stored),
    )
    return {"weight": asdict(weight)}


def _by_tolerance(selection: Selection, eps: float | None, shapes: int) -> dict[str, Json]:
    tolerance = check_tolerance(eps)  # type: ignore[arg-type]  # one of the three options is there
    count = check_integer(shapes, name="shapes")
    return {entry.name: {"eps": tolerance, "shapes": count} for entry in selection.weights}


def _by_plan(selection: Selection, plan: CompressionPlan, checkpoint: Checkpoint) -> dict[str, Json]:
    """What to do with each weight of a plan, which is checked against the checkpoint first."""
    if plan.fingerprint not in (None, checkpoint.fingerprint):
        msg = (
            "the plan was made for another checkpoint, or this one was changed since: make a new plan, or take the "
            "line 'checkpoint' out of it"
        )
        raise ShapeError(msg)
    weights = {entry.name: entry for entry in selection.weights}
    how: dict[str, Json] = {}
    for name, planned in plan.weights.items():
        if name not in weights:
            msg = f"the plan has {name!r}, which is no matrix of real numbers that was chosen from this checkpoint"
            raise ShapeError(msg)
        if math.prod(planned.shape) != weights[name].parameters:
            msg = (
                f"the plan lays {name!r} of shape {weights[name].shape} over {planned.shape}: other numbers of entries"
            )
            raise ShapeError(msg)
        how[name] = {"shape": list(planned.shape)} | (
            {"eps": planned.eps} if planned.ranks is None else {"ranks": list(planned.ranks)}
        )
    return how


def _smallest_shape(name: str, matrix: NDArray, how: Json) -> Shape | None:
    """The candidate whose train needs the fewest numbers for the tolerance; None where the dense matrix does."""
    candidates = shape_candidates(*matrix.shape, count=how["shapes"])
    weight = analyze_weight(name, matrix, candidates=candidates, ranks=(), eps=(how["eps"],))
    return smallest(weight, how["eps"]).shape


def _rounding_error(train: TensorTrain, stored: TensorTrain) -> float:
    """What rounding the cores has added, relative to the weight."""
    norm = float(train.norm())
    if norm == 0.0:
        return 0.0
    return float((train.to(dtype=np.float64) - stored.to(dtype=np.float64)).norm()) / norm


def _finish(checkpoint: Checkpoint, output: Path, records: Mapping[str, Json]) -> Archive:
    """Write what became of no train, and the manifest last."""
    failed = {name: record["failed"] for name, record in records.items() if "failed" in record}
    if failed:
        name = next(iter(failed))
        msg = f"{len(failed)} weights were not compressed, such as {name}: {failed[name]}; try again with resume"
        raise TTFileError(msg)
    weights = {
        name: CompressedWeight.from_json(record["weight"]) for name, record in records.items() if "weight" in record
    }
    dense = [entry for name, entry in checkpoint.entries.items() if name not in weights]
    if dense:
        write_safetensors(
            output / DENSE,
            [TensorSpec(entry.name, entry.dtype if entry.dtype in DTYPES else "F32", entry.shape) for entry in dense],
            _dense_tensors(checkpoint, dense),
        )
    archive = Archive(
        weights={name: weights[name] for name in checkpoint.entries if name in weights},
        order=tuple(checkpoint.entries),
        metadata=checkpoint.metadata(),
        dense_sha256=digest(output / DENSE) if dense else None,
        dense_parameters=sum(entry.parameters for entry in dense),
    )
    if checkpoint.path.is_dir():
        copy_others(checkpoint.path, output)
    write_archive(output, archive)
    (output / JOURNAL).unlink()
    return archive


def _dense_tensors(checkpoint: Checkpoint, dense: Sequence[TensorEntry]) -> Iterator[tuple[str, NDArray | RawBytes]]:
    for entry in dense:
        yield entry.name, checkpoint.raw(entry.name) if entry.dtype in DTYPES else checkpoint.array(entry.name)

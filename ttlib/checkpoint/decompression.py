"""A compressed checkpoint back to an ordinary one, tensor by tensor."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ttlib.checkpoint.archive import DENSE, TRAINS, Archive, check_file, copy_others, read_archive
from ttlib.checkpoint.entries import DTYPES
from ttlib.checkpoint.numbers import NDArray
from ttlib.checkpoint.reader import Checkpoint, open_whole
from ttlib.checkpoint.train_file import read_train
from ttlib.checkpoint.writer import RawBytes, TensorSpec, write_safetensors
from ttlib.errors import TTFileError


def decompress(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    /,
    *,
    watch: Callable[[str], None] | None = None,
) -> None:
    """Write the checkpoint that a folder of `compress` stands for: dense weights, in their old dtypes and order.

    Args:
        folder: what `compress` wrote.
        output: a new folder, for `model.safetensors` and what else lay beside the weights; or a path that ends in
            .safetensors, for the weights alone.
        watch: called with the name of each tensor.

    One weight is in memory at a time.  Quantised weights of a gguf file come back as float16.

    Raises:
        FileNotFoundError: *folder* is none of `compress`, or is not finished.
        TTFileError: a file in it is damaged, or *output* cannot be written.
    """
    folder, output = Path(folder), Path(output)
    archive = read_archive(folder)
    dense = _dense(folder, archive)
    specs = [_spec(name, archive, dense) for name in archive.order]
    is_file = output.suffix == ".safetensors"
    tensors = _tensors(folder, archive, dense, watch)
    target = output if is_file else output / "model.safetensors"
    write_safetensors(target, specs, tensors, metadata=archive.metadata)
    if not is_file:
        copy_others(folder, output)


def _dense(folder: Path, archive: Archive) -> Checkpoint | None:
    if archive.dense_sha256 is None:
        return None
    check_file(folder / DENSE, archive.dense_sha256)
    return open_whole(folder / DENSE)


def _spec(name: str, archive: Archive, dense: Checkpoint | None) -> TensorSpec:
    if name in archive.weights:
        weight = archive.weights[name]
        return TensorSpec(name, weight.dtype if weight.dtype in DTYPES else "F16", weight.shape)
    if dense is None or name not in dense.entries:
        msg = f"tensor {name!r} is neither in {TRAINS}/ nor in {DENSE}: compress the checkpoint again"
        raise TTFileError(msg)
    entry = dense.entries[name]
    return TensorSpec(name, entry.dtype, entry.shape)


def _tensors(
    folder: Path, archive: Archive, dense: Checkpoint | None, watch: Callable[[str], None] | None
) -> Iterator[tuple[str, NDArray | RawBytes]]:
    for name in archive.order:
        if name in archive.weights:
            yield name, _matrix(folder, archive, name)
        elif dense is not None:
            yield name, dense.raw(name)
        if watch is not None:
            watch(name)


def _matrix(folder: Path, archive: Archive, name: str) -> NDArray:
    weight = archive.weights[name]
    path = folder / weight.file
    check_file(path, weight.sha256)
    train = read_train(path)
    if math.prod(train.shape) != math.prod(weight.shape):
        msg = f"{os.fspath(path)!r} holds {train!r}, the manifest has a weight of {weight.shape}: compress again"
        raise TTFileError(msg)
    matrix = np.asarray(train.to_matrix(*weight.shape))
    return matrix.astype(np.float16) if weight.dtype not in ("BF16", "F32", "F64") else matrix

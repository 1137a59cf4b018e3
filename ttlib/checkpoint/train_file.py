"""The file of a compressed weight: what `ttlib.save` writes, in the dtype of the weight, bfloat16 without torch too."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from ttlib._manifest import FORMAT, LAYOUTS, Manifest
from ttlib.checkpoint.numbers import NDArray, narrow, widen
from ttlib.checkpoint.writer import TensorSpec, write_safetensors
from ttlib.storage import load_words
from ttlib.tensor_train import TensorTrain

# The dtype of the cores by that of the weight; of quantised weights, whose numbers have fewer digits than these.
_QUANTISED = "float16"
_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def core_dtype(weight_dtype: str) -> str:
    """The name of the dtype that cores are stored in."""
    return _NAMES.get(weight_dtype, _QUANTISED)


def write_train(path: str | os.PathLike[str], train: TensorTrain, *, dtype: str) -> TensorTrain:
    """Write a train in *dtype* and return it as it will be read, in the dtype that it came in.

    Args:
        path: the file, which stays the old one until the new one is complete; `ttlib.load` reads it.
        train: on numpy, float32 or float64.
        dtype: "float16", "bfloat16", "float32" or "float64".
    """
    layout = LAYOUTS[dtype]
    words = [_to_words(np.asarray(core), dtype) for core in train.cores]
    manifest = Manifest(
        kind="tensor_train",
        dtype=dtype,
        shapes=tuple((int(core.shape[1]),) for core in train.cores),
        ranks=train.ranks,
        sha256=tuple(hashlib.sha256(word.tobytes()).hexdigest() for word in words),
    )
    specs = [TensorSpec(name, layout.code, tuple(entry["shape"])) for name, entry in manifest.entries().items()]
    tensors = ((spec.name, word.tobytes()) for spec, word in zip(specs, words, strict=True))
    write_safetensors(path, specs, tensors, metadata={FORMAT: manifest.to_json()})
    return _from_words(words, dtype)


def read_train(path: str | os.PathLike[str]) -> TensorTrain:
    """Read a train on numpy; float16 and bfloat16 become float32.  TTFileError for a damaged file."""
    manifest, words = load_words(path)
    return _from_words(words, manifest.dtype)


def _to_words(core: NDArray, dtype: str) -> NDArray:
    return narrow(core.astype(np.float32)) if dtype == "bfloat16" else core.astype(LAYOUTS[dtype].words)


def _from_words(words: Sequence[NDArray], dtype: str) -> TensorTrain:
    if dtype == "bfloat16":
        return TensorTrain(tuple(widen(word) for word in words))
    wide = np.float64 if dtype == "float64" else np.float32
    return TensorTrain(tuple(word.view(dtype).astype(wide) for word in words))

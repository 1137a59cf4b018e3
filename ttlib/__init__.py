"""ttlib: tensor-train mathematics on numpy and torch arrays."""

from __future__ import annotations

from ttlib import noise_reduction
from ttlib.constructors import random
from ttlib.cores.decompose import DecompositionReport
from ttlib.cost import count_parameters
from ttlib.decomposition import decompose
from ttlib.errors import BackendError, NonFiniteError, RankError, ShapeError, TTError, TTFileError
from ttlib.ranks import clip_ranks
from ttlib.shape_search import ShapeCandidate, search_shapes
from ttlib.shapes import factorize, find_split
from ttlib.tensor_train import TensorTrain

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "DecompositionReport",
    "NonFiniteError",
    "RankError",
    "ShapeCandidate",
    "ShapeError",
    "TTError",
    "TTFileError",
    "TensorTrain",
    "clip_ranks",
    "count_parameters",
    "decompose",
    "factorize",
    "find_split",
    "noise_reduction",
    "random",
    "search_shapes",
]

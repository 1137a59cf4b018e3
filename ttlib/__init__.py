"""ttlib: tensor-train mathematics on numpy, torch and other array-API libraries."""

from __future__ import annotations

from ttlib import interop, noise_reduction, testing
from ttlib.completion import complete
from ttlib.constructors import eye, ones, random, random_orthogonal, rank_one, zeros
from ttlib.cores.complete import CompletionReport
from ttlib.cores.interpolation import CrossReport
from ttlib.cores.report import DecompositionReport
from ttlib.cost import count_parameters
from ttlib.cross_interpolation import cross
from ttlib.decomposition import decompose, decompose_batch, decompose_matrix, decompose_matrix_batch
from ttlib.errors import (
    BackendError,
    NonFiniteError,
    RankError,
    ShapeError,
    TTError,
    TTFileError,
    UnknownDriverError,
)
from ttlib.planning import ContractionPlan, calibrate, plan
from ttlib.rank_selection import ranks_for_budget
from ttlib.ranks import clip_ranks
from ttlib.shape_search import ShapeCandidate, search_shapes
from ttlib.shapes import factorize, find_split
from ttlib.spectral import SpectralStart, spectral_start
from ttlib.storage import load, save
from ttlib.sums import round_sum
from ttlib.tensor_train import TensorTrain
from ttlib.tt_matrix import TTMatrix

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "CompletionReport",
    "ContractionPlan",
    "CrossReport",
    "DecompositionReport",
    "NonFiniteError",
    "RankError",
    "ShapeCandidate",
    "ShapeError",
    "SpectralStart",
    "TTError",
    "TTFileError",
    "TTMatrix",
    "TensorTrain",
    "UnknownDriverError",
    "calibrate",
    "clip_ranks",
    "complete",
    "count_parameters",
    "cross",
    "decompose",
    "decompose_batch",
    "decompose_matrix",
    "decompose_matrix_batch",
    "eye",
    "factorize",
    "find_split",
    "interop",
    "load",
    "noise_reduction",
    "ones",
    "plan",
    "random",
    "random_orthogonal",
    "rank_one",
    "ranks_for_budget",
    "round_sum",
    "save",
    "search_shapes",
    "spectral_start",
    "testing",
    "zeros",
]

"""Spectral start: a tensor train made of the leading or the trailing singular directions of a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ttlib import _arrays
from ttlib._types import Array, RanksLike, ShapeLike
from ttlib.decomposition import decompose
from ttlib.errors import ShapeError
from ttlib.ranks import clip_ranks
from ttlib.shapes import check_shape, find_split
from ttlib.tensor_train import TensorTrain

Part = Literal["leading", "trailing"]


@dataclass(frozen=True, slots=True, eq=False)
class SpectralStart:
    """A matrix split into a tensor train and the dense rest: `train.to_matrix(…) + residual` is the matrix.

    `share` is the part of the squared Frobenius norm of the matrix that the train holds.
    """

    train: TensorTrain
    residual: Array
    share: float


def spectral_start(matrix: Array, /, *, shape: ShapeLike, ranks: RanksLike, part: Part = "leading") -> SpectralStart:
    """Split a matrix into a tensor train of its leading or trailing singular directions and the rest.

    >>> import numpy as np, ttlib
    >>> W = np.random.default_rng(0).standard_normal((768, 64))
    >>> start = ttlib.spectral_start(W, shape=[8, 8, 12, 8, 8], ranks=5)
    >>> bool(np.allclose(start.train.to_matrix(768, 64) + start.residual, W))
    True

    A layer that trains the train over the frozen residual starts at exactly the function of the pre-trained weight,
    and its first steps go where that weight is largest ("leading", as PiSSA does with two factors) or smallest
    ("trailing", as MiLoRA does).

    Args:
        matrix: (rows, cols), floating or complex, of any library.
        shape: the modes of the train, leading ones numbering the rows.
        ranks: as for `decompose`; the rank at the row | column boundary is the number of singular directions.
        part: "leading" or "trailing".

    Returns:
        SpectralStart(train, residual, share), in the library and dtype of the matrix.

    Raises:
        ShapeError, RankError, NonFiniteError, BackendError: as `decompose`; ShapeError also for a shape without a mode
        boundary between rows and columns, or an unknown part.

    Source: Meng, Wang, Zhang, PiSSA, NeurIPS 2024, and Wang et al., MiLoRA, NAACL 2025, for two factors; the train of
    the chosen directions is their TT-SVD.
    """
    if part not in get_args(Part):
        msg = f"part {part!r} does not exist: choose one of {', '.join(map(repr, get_args(Part)))}"
        raise ShapeError(msg)
    _arrays.namespace(matrix)
    if matrix.ndim != 2:
        msg = f"spectral_start takes a matrix, got an array of shape {tuple(matrix.shape)}"
        raise ShapeError(msg)
    rows, cols = _arrays.matrix_shape(matrix)
    modes = check_shape(shape, size=rows * cols)
    split = find_split(modes, rows=rows, cols=cols)
    target = matrix
    if part == "trailing":
        target = _trailing(matrix, clip_ranks(modes, ranks)[split])
    train = decompose(target, shape=modes, ranks=ranks)
    held, whole = (float(_arrays.energies(x[None, ...])[0]) for x in (train.cores[-1], matrix))
    share = held / (whole or 1.0)  # the other cores are orthogonal
    return SpectralStart(train, matrix - train.to_matrix(rows, cols), share)


def _trailing(matrix: Array, count: int) -> Array:
    """Return the part of the matrix that its *count* smallest singular directions make up."""
    xp = _arrays.namespace(matrix)
    _arrays.check_finite(matrix)
    u, values, vh = xp.linalg.svd(_arrays.astype(matrix, _arrays.compute_dtype(matrix)), full_matrices=False)
    tail = (u[:, -count:] * values[None, -count:]) @ vh[-count:, :]
    return _arrays.astype(tail, _arrays.result_dtype(matrix))

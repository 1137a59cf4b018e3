"""Plain lists of cores, as most programs write them."""

from __future__ import annotations

from collections.abc import Iterable

from ttlib import _arrays
from ttlib._types import Array
from ttlib.errors import BackendError, ShapeError
from ttlib.tensor_train import TensorTrain
from ttlib.tt_matrix import TTMatrix


def from_cores(cores: Iterable[Array], /) -> TensorTrain | TTMatrix:
    """Make a TensorTrain of three-dimensional cores, a TTMatrix of four-dimensional ones.

    >>> import numpy as np
    >>> from ttlib.interop import from_cores
    >>> from_cores([np.ones((4, 2)), np.ones((2, 5, 3)), np.ones((3, 6))]).ranks
    (1, 2, 3, 1)
    >>> from_cores([np.ones((1, 4, 5, 2)), np.ones((2, 6, 7, 1))]).row_shape
    (4, 6)

    Args:
        cores: arrays of one library, dtype and device, of shapes (r, n, r') or (r, m, n, r').  The first core of a
            train may leave out its bond of 1 and be (n, r), the last one (r, n).  No array is copied.

    Raises:
        ShapeError: none, or with another number of dimensions, or with both three and four.
        RankError, BackendError: what TensorTrain and TTMatrix refuse.
    """
    if isinstance(cores, str) or not isinstance(cores, Iterable) or hasattr(cores, "dtype"):
        msg = f"cores must be a list or tuple of arrays, got {type(cores).__name__}"
        raise ShapeError(msg)
    arrays = list(cores)
    if not arrays:
        msg = "a tensor train needs at least one core, got none"
        raise ShapeError(msg)
    _arrays.namespace(*arrays)
    if all(core.ndim == 4 for core in arrays):
        return TTMatrix(tuple(arrays))
    return TensorTrain(tuple(_with_boundary_bonds(arrays)))


def check_train(value: object, function: str) -> None:
    """Raise BackendError unless *value* is what the bridge *function* takes, a train."""
    if not isinstance(value, (TensorTrain, TTMatrix)):
        msg = f"{function} takes a TensorTrain or TTMatrix, got {type(value).__name__}"
        raise BackendError(msg)


def _with_boundary_bonds(cores: list[Array]) -> list[Array]:
    last = len(cores) - 1
    if last > 0 and cores[0].ndim == 2:
        cores[0] = cores[0][None, :, :]  # (n, r) -> (1, n, r)
    if last > 0 and cores[last].ndim == 2:
        cores[last] = cores[last][:, :, None]  # (r, n) -> (r, n, 1)
    for k, core in enumerate(cores):
        if core.ndim != 3:
            msg = (
                f"core {k} of {len(cores)} has shape {tuple(core.shape)}: the cores of a train are (r, n, r'), at the "
                "ends of at least two also (n, r) and (r, n); those of a matrix are all (r, m, n, r')"
            )
            raise ShapeError(msg)
    return cores

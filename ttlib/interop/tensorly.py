"""tensorly: the same cores in the same order, so only the wrapping changes."""

from __future__ import annotations

from typing import Any

from ttlib.errors import BackendError
from ttlib.interop.plain import check_train, from_cores
from ttlib.tensor_train import TensorTrain
from ttlib.tt_matrix import TTMatrix


def to_tensorly(tt: TensorTrain | TTMatrix, /) -> Any:
    """Return a tensorly TTTensor, or TTMatrix, of the same arrays.

    >>> import ttlib
    >>> from ttlib.interop import to_tensorly
    >>> to_tensorly(ttlib.random([4, 5, 6], ranks=3, seed=0))
    factors list : rank-(1, 3, 3, 1) matrix-product-state tensor of shape (4, 5, 6)

    tensorly calculates with the library that `tensorly.set_backend` names, numpy at first; it does not look at the
    arrays.

    Args:
        tt: a train with cores (r, n, r'), or a matrix with cores (r, m, n, r').

    Raises:
        BackendError: something else than a train.
        ImportError: tensorly is missing.
    """
    check_train(tt, "to_tensorly")
    tensorly = _import_tensorly()
    wrap = tensorly.tt_matrix.TTMatrix if isinstance(tt, TTMatrix) else tensorly.tt_tensor.TTTensor
    return wrap(list(tt.cores))


def from_tensorly(x: Any, /) -> TensorTrain | TTMatrix:
    """Return the TensorTrain of a tensorly TTTensor, the TTMatrix of a TTMatrix, or either of a list of factors.

    >>> import numpy as np, tensorly.decomposition
    >>> from ttlib.interop import from_tensorly
    >>> factors = tensorly.decomposition.tensor_train(np.ones((4, 5, 6)), rank=1)
    >>> from_tensorly(factors).shape
    (4, 5, 6)

    Args:
        x: what tensorly made; its arrays are not copied.

    Raises:
        BackendError: another format, as of a tensor ring.
        ShapeError, RankError: factors that form no train.
        ImportError: tensorly is missing.
    """
    tensorly = _import_tensorly()
    if isinstance(x, (tensorly.tt_tensor.TTTensor, tensorly.tt_matrix.TTMatrix)):
        return from_cores(x.factors)
    if isinstance(x, (list, tuple)):
        return from_cores(x)
    msg = f"from_tensorly takes a TTTensor, a TTMatrix or a list of their factors, got {type(x).__name__}"
    raise BackendError(msg)


def _import_tensorly() -> Any:
    try:
        import tensorly.tt_matrix  # noqa: PLC0415  # optional
        import tensorly.tt_tensor  # noqa: PLC0415
    except ImportError as error:
        msg = "the bridge to tensorly needs the package: pip install tensorly"
        raise ImportError(msg) from error
    return tensorly

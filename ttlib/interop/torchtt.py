"""torchtt: the same cores in the same order, of torch tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from ttlib import _arrays
from ttlib._types import Array
from ttlib.errors import BackendError
from ttlib.interop.plain import check_train, from_cores
from ttlib.tensor_train import TensorTrain
from ttlib.tt_matrix import TTMatrix


def to_torchtt(tt: TensorTrain | TTMatrix, /) -> Any:
    """Return a torchtt TT; a TTMatrix becomes one of its operators, with the rows as M and the columns as N.

    >>> import ttlib
    >>> from ttlib.interop import to_torchtt
    >>> to_torchtt(ttlib.random([4, 5, 6], ranks=3, seed=0)).R  # doctest: +SKIP
    [1, 3, 3, 1]

    Args:
        tt: a train with cores (r, n, r'), or a matrix with cores (r, m, n, r').  torch tensors are handed over as
            they are, with their autograd graph; writable numpy arrays share their memory with the result.

    Raises:
        BackendError: something else than a train.
        ImportError: torchtt is missing.
    """
    check_train(tt, "to_torchtt")
    return _import_torchtt().TT([_to_torch(core) for core in tt.cores])


def from_torchtt(x: Any, /) -> TensorTrain | TTMatrix:
    """Return the TensorTrain, or for an operator the TTMatrix, with the torch tensors of a torchtt TT.

    >>> import torchtt  # doctest: +SKIP
    >>> from ttlib.interop import from_torchtt
    >>> from_torchtt(torchtt.ones([(4, 5), (6, 7)])).row_shape  # doctest: +SKIP
    (4, 6)

    Args:
        x: what torchtt made; its tensors are not copied.

    Raises:
        BackendError: something else than a torchtt TT.
        ShapeError: an empty one.
        ImportError: torchtt is missing.
    """
    if not isinstance(x, _import_torchtt().TT):
        msg = f"from_torchtt takes a torchtt.TT, got {type(x).__name__}"
        raise BackendError(msg)
    return from_cores(x.cores)


def _to_torch(core: Array) -> Any:
    if _arrays.library(core) == "torch":
        return core
    import torch  # noqa: PLC0415  # torchtt has brought it

    host = np.asarray(core)
    return torch.from_numpy(host if host.flags.writeable else host.copy())  # torch knows no read-only tensors


def _import_torchtt() -> Any:
    try:
        import torchtt  # noqa: PLC0415  # optional
    except ImportError as error:
        msg = "the bridge to torchtt needs the package: pip install torchtt"
        raise ImportError(msg) from error
    return torchtt

"""quimb: matrix product states are tensor trains, matrix product operators are TT matrices.

quimb names the dimensions of its arrays l(eft), r(ight), p(hysical), or u(pper) and d(own) of an operator, and has
none where a chain ends.  The upper index of an operator numbers the rows: `MatrixProductOperator.to_dense()` is
`TTMatrix.to_matrix()`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ttlib import _arrays
from ttlib._types import Array
from ttlib.errors import BackendError, ShapeError
from ttlib.interop.plain import check_train
from ttlib.tensor_train import TensorTrain
from ttlib.tt_matrix import TTMatrix


def to_quimb(tt: TensorTrain | TTMatrix, /) -> Any:
    """Return the MatrixProductState of a train, the MatrixProductOperator of a matrix, on views of the cores.

    >>> import ttlib
    >>> from ttlib.interop import to_quimb
    >>> to_quimb(ttlib.random([2, 2, 2], ranks=2, seed=0)).to_dense().shape  # doctest: +SKIP
    (8, 1)

    Args:
        tt: a train with cores (r, n, r'), or a matrix with cores (r, m, n, r').

    Raises:
        BackendError: something else than a train.
        ImportError: quimb is missing.
    """
    check_train(tt, "to_quimb")
    quimb = _import_quimb()
    arrays = list(tt.cores)
    arrays[0] = arrays[0][0, ...]  # (1, …, r) -> (…, r)
    arrays[-1] = arrays[-1][..., 0]  # (r, …, 1) -> (r, …)
    if isinstance(tt, TTMatrix):
        return quimb.MatrixProductOperator(arrays, shape="ludr")
    return quimb.MatrixProductState(arrays, shape="lpr")


def from_quimb(network: Any, /) -> TensorTrain | TTMatrix:
    """Return the TensorTrain of a MatrixProductState, the TTMatrix of a MatrixProductOperator.

    >>> import quimb.tensor  # doctest: +SKIP
    >>> from ttlib.interop import from_quimb
    >>> from_quimb(quimb.tensor.MPS_ghz_state(4)).ranks  # doctest: +SKIP
    (1, 2, 2, 2, 1)

    The order of the indices in the tensors of the network does not matter, and a power of ten that quimb keeps
    apart (`network.exponent`) is multiplied in.

    Args:
        network: an open chain with one tensor on each site; its arrays are not copied, unless it has an exponent.

    Raises:
        BackendError: another kind of network.
        ShapeError: a periodic chain, several tensors on one site, or several bonds between two sites.
        ImportError: quimb is missing.
    """
    quimb = _import_quimb()
    value: type[TensorTrain | TTMatrix]
    index_names: tuple[Callable[[Any], str], ...]
    if isinstance(network, quimb.MatrixProductState):
        value, index_names = TensorTrain, (network.site_ind,)
    elif isinstance(network, quimb.MatrixProductOperator):
        value, index_names = TTMatrix, (network.upper_ind, network.lower_ind)
    else:
        msg = f"from_quimb takes a MatrixProductState or MatrixProductOperator, got {type(network).__name__}"
        raise BackendError(msg)
    sites = tuple(network.sites)
    tensors = [_tensor_on(network, site) for site in sites]
    # What is left and right of each site: the name of the one index, or nothing.
    bonds = [(), *map(_bond, tensors, tensors[1:]), ()]
    cores = [
        _core(tensor, bonds[k], tuple(name(site) for name in index_names), bonds[k + 1])
        for k, (tensor, site) in enumerate(zip(tensors, sites, strict=True))
    ]
    exponent = float(network.exponent)
    if exponent:  # over all cores, so that none of them overflows
        cores = [core * 10.0 ** (exponent / len(cores)) for core in cores]
    return value(tuple(cores))


def _tensor_on(network: Any, site: Any) -> Any:
    tensors = network.select_tensors(network.site_tag(site))
    if len(tensors) != 1:
        msg = f"site {site} holds {len(tensors)} tensors: contract them to one first, as gates do with contract=True"
        raise ShapeError(msg)
    return tensors[0]


def _bond(left: Any, right: Any) -> tuple[str, ...]:
    shared = tuple(index for index in left.inds if index in right.inds)
    if len(shared) > 1:
        msg = f"two neighbouring sites share the {len(shared)} bonds {shared}: call network.fuse_multibonds() first"
        raise ShapeError(msg)
    return shared


def _core(tensor: Any, left: tuple[str, ...], modes: tuple[str, ...], right: tuple[str, ...]) -> Array:
    """Return the array with the dimensions (r, modes, r'), where a bond that is not there has size 1."""
    expected = (*left, *modes, *right)
    if sorted(tensor.inds) != sorted(expected):
        msg = (
            f"a tensor of the chain has the indices {tensor.inds}, expected {expected}: the chain must be open and "
            "each site joined to its neighbours only (compress a periodic one to an open one first)"
        )
        raise ShapeError(msg)
    sizes = [tensor.ind_size(index) for index in modes]
    ends = [tensor.ind_size(bond[0]) if bond else 1 for bond in (left, right)]
    return _arrays.reshape(tensor.transpose(*expected).data, (ends[0], *sizes, ends[1]))


def _import_quimb() -> Any:
    try:
        import quimb.tensor  # noqa: PLC0415  # optional
    except ImportError as error:
        msg = "the bridge to quimb needs the package: pip install quimb"
        raise ImportError(msg) from error
    return quimb.tensor

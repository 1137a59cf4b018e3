"""TT-matrices as cores (r, m, n, r'): products, transposes, application to dense vectors.

Source: Oseledets 2011, section 4.3; the interleaved order of modes is that of Oseledets, 'Approximation of 2^d x 2^d
matrices using tensor decomposition', SIAM J. Matrix Anal. 31 (2010).
"""

from __future__ import annotations

import math

from ttlib import _arrays
from ttlib._types import Array, Cores, Shape


def fuse(cores: Cores) -> Cores:
    """Return the tensor train (r, m n, r') of a TT-matrix."""
    return tuple(_arrays.reshape(c, (c.shape[0], c.shape[1] * c.shape[2], c.shape[3])) for c in cores)


def unfuse(cores: Cores, row_shape: Shape, col_shape: Shape) -> Cores:
    """Return the TT-matrix (r, m, n, r') of a train over the modes m n."""
    return tuple(
        _arrays.reshape(core, (core.shape[0], rows, cols, core.shape[2]))
        for core, rows, cols in zip(cores, row_shape, col_shape, strict=True)
    )


def interleave(matrix: Array, row_shape: Shape, col_shape: Shape) -> Array:
    """Lay a matrix (m1 … md, n1 … nd) out as the tensor (m1 n1, …, md nd)."""
    order = len(row_shape)
    split = _arrays.reshape(matrix, (*row_shape, *col_shape))
    axes = [axis for k in range(order) for axis in (k, order + k)]
    paired = _arrays.namespace(matrix).permute_dims(split, tuple(axes))  # (m1, n1, …, md, nd)
    return _arrays.reshape(paired, tuple(m * n for m, n in zip(row_shape, col_shape, strict=True)))


def deinterleave(tensor: Array, row_shape: Shape, col_shape: Shape) -> Array:
    """Undo `interleave`."""
    pairs = [side for pair in zip(row_shape, col_shape, strict=True) for side in pair]
    split = _arrays.reshape(tensor, tuple(pairs))  # (m1, n1, …, md, nd)
    axes = (*range(0, len(pairs), 2), *range(1, len(pairs), 2))
    return _arrays.reshape(
        _arrays.namespace(tensor).permute_dims(split, axes), (math.prod(row_shape), math.prod(col_shape))
    )


def transpose(cores: Cores) -> Cores:
    """Return the transposed matrix."""
    xp = _arrays.namespace(*cores)
    return tuple(xp.permute_dims(core, (0, 2, 1, 3)) for core in cores)


def multiply(a: Cores, b: Cores) -> Cores:
    """Return the matrix product, ranks multiply: core by core, the sum over the modes in between."""
    xp = _arrays.namespace(a[0], b[0])
    products = []
    for x, y in zip(a, b, strict=True):
        (left, rows, inner, right), (other_left, _, cols, other_right) = x.shape, y.shape
        lhs = _arrays.reshape(xp.permute_dims(x, (0, 1, 3, 2)), (left * rows * right, inner))  # (r m r', k)
        rhs = _arrays.reshape(xp.permute_dims(y, (1, 0, 2, 3)), (inner, -1))  # (k, s n s')
        product = _arrays.reshape(lhs @ rhs, (left, rows, right, other_left, cols, other_right))
        product = xp.permute_dims(product, (0, 3, 1, 4, 2, 5))  # (r, s, m, n, r', s')
        products.append(_arrays.reshape(product, (left * other_left, rows, cols, right * other_right)))
    return tuple(products)


def apply(cores: Cores, x: Array) -> Array:
    """Return (…, m1 … md) from dense vectors x (…, n1 … nd), one mode at a time, never forming the matrix."""
    xp = _arrays.namespace(cores[0], x)
    batch = tuple(x.shape[:-1])
    done, left_over = math.prod(batch), int(x.shape[-1])
    state = x
    for core in cores:
        left, rows, cols, right = core.shape
        left_over //= cols
        kernel = _arrays.reshape(xp.permute_dims(core, (1, 3, 0, 2)), (rows * right, left * cols))  # (m r', r n)
        state = kernel @ _arrays.reshape(state, (done, left * cols, left_over))  # (B, r n, N) -> (B, m r', N)
        done *= rows
    return _arrays.reshape(state, (*batch, math.prod(int(core.shape[1]) for core in cores)))


def trace(cores: Cores) -> Array:
    """Return the sum of the diagonal; rows and columns must have the same modes."""
    xp = _arrays.namespace(*cores)
    result = None
    for core in cores:
        left, mode, _, right = core.shape
        flat = _arrays.reshape(xp.permute_dims(core, (1, 2, 0, 3)), (mode * mode, left * right))  # (n n, r r')
        diagonal = _arrays.reshape(xp.sum(flat[:: mode + 1, :], axis=0), (left, right))  # (r, r')
        result = diagonal if result is None else result @ diagonal
    return result[0, 0]  # type: ignore[index]  # every train has a core

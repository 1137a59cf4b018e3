"""Arithmetic on tuples of cores (r, n, r'): sums, products, contractions with a vector, entries.

Nothing is approximated here: ranks add under `add`, multiply under `hadamard`, and `ttlib.cores.rounding` brings them
back down.  Source: Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33 (2011), section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ttlib import _arrays
from ttlib._types import Array, Cores


def add(a: Cores, b: Cores) -> Cores:
    """Return the sum: block-diagonal cores, ranks add."""
    if len(a) == 1:
        return (a[0] + b[0],)
    xp = _arrays.namespace(a[0], b[0])
    first = xp.concat([a[0], b[0]], axis=2)  # (1, n, ra + rb)
    inner = (_block_diagonal(x, y) for x, y in zip(a[1:-1], b[1:-1], strict=True))
    last = xp.concat([a[-1], b[-1]], axis=0)  # (ra + rb, n, 1)
    return (first, *inner, last)


def _block_diagonal(x: Array, y: Array) -> Array:
    xp = _arrays.namespace(x, y)
    (left, mode, right), (other_left, _, other_right) = x.shape, y.shape
    kind = {"dtype": x.dtype, "device": _arrays.device(x)}
    top = xp.concat([x, xp.zeros((left, mode, other_right), **kind)], axis=2)
    bottom = xp.concat([xp.zeros((other_left, mode, right), **kind), y], axis=2)
    return xp.concat([top, bottom], axis=0)  # (ra + rb, n, ra' + rb')


def scale(cores: Cores, factor: Array | complex) -> Cores:
    """Return the train times a number, which goes into the last core: the others keep their orthogonality."""
    return (*cores[:-1], cores[-1] * factor)


def hadamard(a: Cores, b: Cores) -> Cores:
    """Return the entrywise product: Kronecker products of the slices, ranks multiply."""
    products = []
    for x, y in zip(a, b, strict=True):
        (left, mode, right), (other_left, _, other_right) = x.shape, y.shape
        product = x[:, None, :, :, None] * y[None, :, :, None, :]  # (ra, rb, n, ra', rb')
        products.append(_arrays.reshape(product, (left * other_left, mode, right * other_right)))
    return tuple(products)


def inner(a: Cores, b: Cores) -> tuple[Array, int]:
    """Return m and k with sum conj(a) b = m * 2**k, m a 0-dimensional array.

    The exponent is taken out core by core, so trains whose product leaves the range of the dtype still have one.
    """
    xp = _arrays.namespace(a[0], b[0])
    environment = xp.ones((1, 1), dtype=b[0].dtype, device=_arrays.device(b[0]))  # (ra, rb)
    total = 0
    for left_core, right_core in zip(a, b, strict=True):
        (x, x_exponent), (y, y_exponent) = _arrays.normalise(left_core), _arrays.normalise(right_core)
        (left, mode, right), (other_left, _, other_right) = x.shape, y.shape
        half = environment @ _arrays.reshape(y, (other_left, mode * other_right))  # (ra, n rb')
        half = _arrays.reshape(half, (left * mode, other_right))  # (ra n, rb')
        environment = _arrays.adjoint(_arrays.reshape(x, (left * mode, right))) @ half  # (ra', rb')
        environment, exponent = _arrays.normalise(environment)
        total += exponent + x_exponent + y_exponent
    return environment[0, 0], total


def root_of_square(cores: Cores) -> tuple[Array, int]:
    """Return m and k with ||A|| = m * 2**k, as the root of the inner product: derivatives of every order exist.

    Where rounding makes the square of a vanishing sum zero or negative, the norm is 0 and so is its derivative.
    """
    xp = _arrays.namespace(*cores)
    square, exponent = inner(cores, cores)
    square = xp.real(square) if _arrays.is_complex(square) else square
    positive = square > 0
    root = xp.sqrt(_arrays.ldexp(xp.where(positive, square, xp.ones_like(square)), exponent % 2))
    return xp.where(positive, root, xp.zeros_like(root)), exponent // 2


def conj(cores: Cores) -> Cores:
    """Return the complex conjugate."""
    return tuple(_arrays.conj(core) for core in cores)


def reverse(cores: Sequence[Array]) -> Cores:
    """Return the train over the modes in reverse order."""
    xp = _arrays.namespace(*cores)
    return tuple(xp.permute_dims(core, (2, 1, 0)) for core in reversed(cores))


def contract_modes(cores: Cores, slices: Mapping[int, Array]) -> Array | Cores:
    """Replace core k by the matrix slices[k] (r, r') for every k given and absorb it in its neighbour.

    A matrix is what a core becomes when its mode is summed over, or set to one index.  Returns the cores of the modes
    that are left, or a 0-dimensional array when none is.
    """
    kept: list[Array] = []
    carry = None  # (r, r'), the product of the matrices since the last kept core
    for k, core in enumerate(cores):
        if k in slices:
            carry = slices[k] if carry is None else carry @ slices[k]
            continue
        left, mode, right = core.shape
        if carry is not None:
            core = _arrays.reshape(carry @ _arrays.reshape(core, (left, mode * right)), (-1, mode, right))  # noqa: PLW2901
            carry = None
        kept.append(core)
    if not kept:
        return carry[0, 0]  # type: ignore[index]  # every train has a core, so there is a matrix
    if carry is not None:
        left, mode, right = kept[-1].shape
        kept[-1] = _arrays.reshape(_arrays.reshape(kept[-1], (left * mode, right)) @ carry, (left, mode, -1))
    return tuple(kept)


def entries(cores: Cores, indices: Array) -> Array:
    """Return the entries (B,) at the multi-indices (indices[0, b], …, indices[d-1, b]): one row (B,) a mode."""
    xp = _arrays.namespace(*cores)
    rows = xp.permute_dims(xp.take(cores[0], indices[0], axis=1), (1, 0, 2))  # (B, 1, r)
    for k, core in enumerate(cores[1:], start=1):
        rows = rows @ xp.permute_dims(xp.take(core, indices[k], axis=1), (1, 0, 2))  # (B, 1, r')
    return rows[:, 0, 0]

"""Public help for tests of code that uses tensor trains: hypothesis strategies, an assertion, a check for drivers.

`hypothesis` is needed by the strategies only, and imported when one is called.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Shape
from ttlib.constructors import random
from ttlib.linalg import PartialSVD, SVDDriver, TruncationRule
from ttlib.tensor_train import TensorTrain
from ttlib.train import Train
from ttlib.tt_matrix import TTMatrix

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = [
    "PartialSVD",
    "SVDDriver",
    "TruncationRule",
    "assert_tt_close",
    "check_driver",
    "tensor_trains",
    "tt_matrices",
]

# LAPACK's own tests pass below this many units in the last place times the dimension (TESTING/svd.in).
LAPACK_THRESHOLD = 35.0


def tensor_trains(
    *,
    min_order: int = 1,
    max_order: int = 4,
    max_mode: int = 5,
    max_rank: int = 4,
    shape: Shape | None = None,
    like: Array | None = None,
) -> SearchStrategy[TensorTrain]:
    """Return a hypothesis strategy of random trains: all orders, modes of 1, rank profiles and scales 1e-6 to 1e6.

    >>> from hypothesis import given
    >>> from ttlib.testing import tensor_trains
    >>> @given(tensor_trains(max_order=3))
    ... def test_transposing_twice_changes_nothing(tt):
    ...     assert tt.T.T.shape == tt.shape
    >>> test_transposing_twice_changes_nothing()

    Args:
        min_order, max_order, max_mode, max_rank: bounds on what is drawn; ranks are clipped to the shape.
        shape: fix the modes, so that several draws can be added.
        like: an array whose library, dtype and device the cores take.
    """
    from hypothesis import strategies as st  # noqa: PLC0415  # optional

    modes = st.lists(st.integers(1, max_mode), min_size=min_order, max_size=max_order).map(tuple)
    shapes = modes if shape is None else st.just(tuple(shape))

    def of_shape(drawn: Shape) -> SearchStrategy[TensorTrain]:
        inner = len(drawn) - 1
        return st.builds(
            lambda ranks, power, seed: random(drawn, ranks=ranks, std=10.0**power, seed=seed, like=like),
            st.lists(st.integers(1, max_rank), min_size=inner, max_size=inner),
            st.integers(-6, 6),
            st.integers(0, 2**32 - 1),
        )

    return shapes.flatmap(of_shape)


def tt_matrices(
    *,
    min_order: int = 1,
    max_order: int = 3,
    max_mode: int = 3,
    max_rank: int = 4,
    row_shape: Shape | None = None,
    col_shape: Shape | None = None,
    like: Array | None = None,
) -> SearchStrategy[TTMatrix]:
    """Return a hypothesis strategy of random TT-matrices; as `tensor_trains`.

    >>> from hypothesis import given
    >>> from ttlib.testing import tt_matrices
    >>> @given(tt_matrices(row_shape=(2, 3)))
    ... def test_rows_are_as_asked(matrix):
    ...     assert matrix.shape[0] == 6
    >>> test_rows_are_as_asked()

    Args:
        row_shape, col_shape: fix the modes of one or both sides.
    """
    from hypothesis import strategies as st  # noqa: PLC0415  # optional

    fixed = row_shape or col_shape
    orders = st.just(len(fixed)) if fixed else st.integers(min_order, max_order)

    def side(order: int, given: Shape | None) -> SearchStrategy[Shape]:
        drawn = st.lists(st.integers(1, max_mode), min_size=order, max_size=order).map(tuple)
        return drawn if given is None else st.just(tuple(given))

    def of_sides(sides: tuple[Shape, Shape]) -> SearchStrategy[TTMatrix]:
        rows, cols = sides
        fused = tuple(m * n for m, n in zip(rows, cols, strict=True))
        trains = tensor_trains(shape=fused, max_rank=max_rank, like=like)
        return trains.map(lambda tt: TTMatrix.from_tensor_train(tt, row_shape=rows, col_shape=cols))

    return orders.flatmap(lambda order: st.tuples(side(order, row_shape), side(order, col_shape))).flatmap(of_sides)


def assert_tt_close(actual: Train, expected: Train | Array, /, *, rtol: float | None = None, atol: float = 0.0) -> None:
    """Raise AssertionError unless ||actual - expected|| <= rtol ||expected|| + atol in the Frobenius norm.

    >>> import ttlib
    >>> tt = ttlib.random((3, 4, 5), ranks=2, seed=0)
    >>> ttlib.testing.assert_tt_close(tt + tt, 2 * tt)

    Args:
        actual: a TensorTrain or TTMatrix.
        expected: another of the same kind, compared without forming the dense tensor; or a dense array of as many
            entries.
        rtol: default: the square root of the machine precision of the dtype.
        atol: absolute allowance, for expected values of zero.
    """
    if rtol is None:
        rtol = math.sqrt(_arrays.unit_roundoff(actual.cores[0]))
    if isinstance(expected, Train):
        size, distance = _arrays.scalar(expected.norm()), _arrays.scalar((actual - expected).norm())
    else:
        dense = actual.to_matrix() if isinstance(actual, TTMatrix) else actual.to_tensor()  # type: ignore[attr-defined]
        ours, theirs = (np.asarray(_arrays.to_numpy(x)).ravel() for x in (dense, expected))
        assert ours.shape == theirs.shape, f"{ours.size} entries in {actual!r}, {theirs.size} expected"  # noqa: S101
        size, distance = float(np.linalg.norm(theirs)), float(np.linalg.norm(ours - theirs))
    if not distance <= rtol * size + atol:
        relative = distance / size if size else math.inf
        msg = (
            f"{actual!r} differs from what was expected by {distance:.3e}, {relative:.3e} of its norm {size:.3e}; "
            f"allowed: rtol={rtol:.1e}, atol={atol:.1e}"
        )
        raise AssertionError(msg)


def check_driver(driver: SVDDriver, /, *, like: Array | None = None, threshold: float = LAPACK_THRESHOLD) -> None:
    """Raise AssertionError, saying which promise on which matrix, unless *driver* is a sound truncated SVD.

    >>> import numpy as np, ttlib
    >>> from ttlib.testing import PartialSVD, check_driver
    >>> def numpy_driver(matrix, rule):
    ...     u, values, vh = np.linalg.svd(matrix, full_matrices=False)
    ...     return PartialSVD(u, values, values[..., :, None] * vh, "mine", "because")
    >>> check_driver(numpy_driver)
    >>> ttlib.decompose(np.eye(4), shape=[2, 2, 2, 2], driver=numpy_driver).ranks
    (1, 2, 4, 2, 1)

    Args:
        driver: called as driver(matrix, rule) -> PartialSVD; see `ttlib.linalg.protocol`.
        like: an array whose library and dtype to test in; numpy float64 by default.
        threshold: scaled residuals must stay below it, in LAPACK's sense: units in the last place times the dimension.

    Every matrix is zero, identity, graded (1 down to one unit in the last place), clustered, rank-deficient or
    Gaussian; tall, wide, square, a single row or column, or a stack; every rule a rank, a tolerance or neither.
    Checked: shapes, order and sign of the values, orthonormality of the basis, that the remainder is the matrix in
    that basis, that what the driver says it lost is what is missing, the promise of the rule, that the rank is no
    larger than an exact SVD needs, and that the input was not written to.
    """
    reference = np.zeros(1) if like is None else like
    for name, matrix in _matrices(reference):
        for rule_name, rule in _rules(matrix):
            given = _arrays.from_numpy(matrix, like=reference)
            before = _arrays.to_numpy(given).copy()
            found = driver(given, rule)
            _check_result(f"{name}, {rule_name}", before, _arrays.to_numpy(given), found, rule, threshold)


def _matrices(like: Array) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield matrices of largest magnitude at most 1, in the dtype of *like*, with known kinds of spectra."""
    dtype = np.dtype(_arrays.dtype_name(like.dtype))
    generator = np.random.default_rng(0)
    unit = np.finfo(dtype).eps
    for rows, cols in ((6, 6), (24, 5), (5, 24), (48, 40), (1, 7), (7, 1), (1, 1)):
        k = min(rows, cols)
        spectra = {
            "zero": np.zeros(k),
            "identity": np.ones(k),
            "graded": np.geomspace(1, unit, k),
            "clustered": np.where(np.arange(k) < (k + 1) // 2, 1.0, np.sqrt(unit)),
            "rank-deficient": (np.arange(k) < (k + 2) // 3).astype(float),
            "gaussian": np.sort(np.abs(generator.standard_normal(k)))[::-1],
        }
        for kind, values in spectra.items():
            u, v = (_orthonormal(generator, n, k, dtype) for n in (rows, cols))
            matrix = (u * values) @ v.conj().T
            yield f"{kind} {rows} x {cols}", (matrix / max(1.0, np.abs(matrix).max())).astype(dtype)
    stack = generator.standard_normal((3, 9, 4)) / np.arange(1, 5) ** 2
    yield "stack 3 x 9 x 4", (stack / np.abs(stack).max()).astype(dtype)


def _orthonormal(generator: np.random.Generator, n: int, k: int, dtype: Any) -> np.ndarray[Any, Any]:
    draw = generator.standard_normal((n, k))
    if np.issubdtype(dtype, np.complexfloating):
        draw = draw + 1j * generator.standard_normal((n, k))
    return np.linalg.qr(draw)[0]


def _rules(matrix: np.ndarray[Any, Any]) -> Iterator[tuple[str, TruncationRule]]:
    energy = np.sum(np.abs(matrix.astype(np.complex128)) ** 2, axis=(-2, -1))
    short = min(matrix.shape[-2:])
    yield "no truncation", TruncationRule(short, 0.0 * energy)
    for rank in {1, (short + 1) // 2}:
        yield f"rank {rank}", TruncationRule(rank, 0.0 * energy)
    for eps in (0.5, 1e-2, 1e-5):
        yield f"eps {eps}", TruncationRule(short, eps**2 * energy)


def _check_result(
    case: str,
    matrix: np.ndarray[Any, Any],
    after: np.ndarray[Any, Any],
    found: PartialSVD,
    rule: TruncationRule,
    threshold: float,
) -> None:
    checks = {
        "the input was written to": np.array_equal(matrix, after),
        **_check_parts(matrix.astype(np.complex128), found, rule, threshold * float(np.finfo(matrix.dtype).eps)),
    }
    for failure, passed in checks.items():
        if not passed:
            msg = f"driver {found.driver!r} on {case}: {failure}"
            raise AssertionError(msg)


def _check_parts(matrix: np.ndarray[Any, Any], found: PartialSVD, rule: TruncationRule, unit: float) -> dict[str, bool]:
    """Return what each promise would be broken as, and whether it was kept; *unit* is relative to the dimension."""
    basis, remainder = (_arrays.to_numpy(part).astype(np.complex128) for part in (found.basis, found.remainder))
    values = _arrays.to_numpy(found.values).astype(np.float64)
    columns, rank = basis.shape[-1], found.rank or rule.rank(values, found.residual)
    allowed = unit * max(matrix.shape[-2:])
    noise = allowed * np.linalg.norm(matrix, axis=(-2, -1))
    exact = np.linalg.svd(matrix, compute_uv=False)
    # Whichever way a tie rounds, an exact driver needs no more than with a budget that is a little smaller.
    best = TruncationRule(rule.max_rank, rule.budget * (1 - 1e-6)).rank(exact)
    overlap = np.abs(basis.conj().mT @ basis - np.eye(columns)).max(initial=0.0)
    inside = np.linalg.norm(basis.conj().mT @ matrix - remainder, axis=(-2, -1))
    lost = np.linalg.norm(matrix - basis[..., :rank] @ remainder[..., :rank, :], axis=(-2, -1))
    said = np.sqrt(rule.tails(values, found.residual)[..., rank])
    allowed_loss = np.sqrt(rule.budget) if rank < rule.max_rank else np.inf
    descending = np.diff(values, axis=-1) <= noise[..., None]
    surplus = exact[..., best:rank] <= noise[..., None]
    return {
        f"it holds {columns} columns, the rule keeps {rank}": columns >= rank and remainder.shape[-2] == columns,
        "the values are not descending numbers >= 0": bool(np.all(values >= 0) and np.all(descending)),
        f"the basis is not orthonormal, by {overlap:.1e}": bool(overlap <= allowed),
        "the remainder is not the matrix in that basis": bool(np.all(inside <= noise)),
        f"what is missing ({lost}) is not what it says it lost ({said})": bool(
            np.all(np.abs(lost - said) <= np.maximum(0.01 * said, noise))
        ),
        f"the error {lost} is above the tolerance {allowed_loss}": bool(np.all(lost <= allowed_loss + noise)),
        # A driver that does not see the whole spectrum may need more.
        f"it keeps {rank}, an exact one needs {best}": bool(rank <= best or np.any(found.residual) or np.all(surplus)),
    }

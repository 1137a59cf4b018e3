"""TT-matrices: products with matrices, trains and dense vectors, with numpy on dense matrices as the oracle."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttlib
from tests.core.test_algebra import close
from ttlib.testing import assert_tt_close, tensor_trains, tt_matrices

sides = st.integers(1, 3).flatmap(
    lambda d: st.tuples(*[st.lists(st.integers(1, 3), min_size=d, max_size=d).map(tuple) for _ in range(3)])
)


def norm(x):
    return float(np.linalg.norm(x))


@given(st.integers(1, 3), st.data())
def test_decomposition_to_full_ranks_gives_the_matrix_back(order, data):
    rows, cols = (data.draw(st.lists(st.integers(1, 4), min_size=order, max_size=order)) for _ in range(2))
    W = np.random.default_rng(0).standard_normal((int(np.prod(rows)), int(np.prod(cols))))
    A, report = ttlib.decompose_matrix(W, row_shape=rows, col_shape=cols, return_report=True)
    assert (A.row_shape, A.col_shape, A.shape) == (tuple(rows), tuple(cols), W.shape)
    assert A.parameters == report.parameters
    close(A.to_matrix(), W)


def test_cores_hold_the_row_and_column_mode_of_one_place():
    left, right = np.arange(6.0).reshape(2, 3), np.arange(20.0).reshape(4, 5) + 1
    A = ttlib.decompose_matrix(np.kron(left, right), row_shape=[2, 4], col_shape=[3, 5])
    assert A.ranks == (1, 1, 1)
    np.testing.assert_allclose(
        np.kron(A.cores[0][0, :, :, 0], A.cores[1][0, :, :, 0]), np.kron(left, right), atol=1e-12
    )


@pytest.mark.parametrize("eps", [0.5, 0.1, 1e-3])
def test_the_tolerance_holds_for_matrices(eps, asarray):
    W = np.random.default_rng(0).standard_normal((36, 40)) / (1 + np.arange(40)) ** 2
    A, report = ttlib.decompose_matrix(asarray(W), row_shape=[6, 6], col_shape=[5, 8], eps=eps, return_report=True)
    error = norm(np.asarray(A.to_matrix()) - W) / norm(W)
    assert error <= eps
    assert report.relative_error == pytest.approx(error, rel=1e-6)


@given(sides, st.data())
def test_products_are_those_of_the_dense_matrices(modes, data):
    rows, inner, cols = modes
    A = data.draw(tt_matrices(row_shape=rows, col_shape=inner))
    B = data.draw(tt_matrices(row_shape=inner, col_shape=cols))
    v = data.draw(tensor_trains(shape=inner))
    u = data.draw(tensor_trains(shape=rows))
    a, b, x, y = A.to_matrix(), B.to_matrix(), v.to_tensor().ravel(), u.to_tensor().ravel()
    close((A @ B).to_matrix(), a @ b, norm(a) * norm(b))
    close((A @ v).to_tensor().ravel(), a @ x, norm(a) * norm(x))
    close((u @ A).to_tensor().ravel(), y @ a, norm(a) * norm(y))
    assert (A @ v).shape == rows
    assert (u @ A).shape == inner


@given(tt_matrices(), st.lists(st.integers(1, 3), max_size=2), st.integers(0, 2**31))
def test_dense_vectors_lie_along_the_last_axis(A, batch, seed):
    rng = np.random.default_rng(seed)
    a = A.to_matrix()
    x, y = rng.standard_normal((*batch, A.shape[1])), rng.standard_normal((*batch, A.shape[0]))
    close(A @ x, x @ a.T, norm(a) * norm(x))
    close(y @ A, y @ a, norm(a) * norm(y))


def test_dense_vectors_of_every_library(asarray):
    W = np.random.default_rng(0).standard_normal((6, 8))
    A = ttlib.decompose_matrix(asarray(W), row_shape=[2, 3], col_shape=[4, 2])
    x = asarray(np.random.default_rng(1).standard_normal((5, 8)))
    result = A @ x
    assert type(result) is type(x)
    np.testing.assert_allclose(np.asarray(result), np.asarray(x) @ W.T, atol=1e-12)


@given(tt_matrices())
def test_transposes_traces_and_entries(A):
    a = A.to_matrix()
    close(A.T.to_matrix(), a.T)
    close((A * 1j).H.to_matrix(), (a * 1j).conj().T)
    close((A.T @ A).trace(), np.trace(a.T @ a), norm(a) ** 2)
    for i, j in ((0, 0), (-1, -1), (A.shape[0] // 2, A.shape[1] // 3)):
        close(A[i, j], a[i, j], np.abs(a).max())


@given(tt_matrices(row_shape=(2, 3), col_shape=(3, 2)), tt_matrices(row_shape=(2, 3), col_shape=(3, 2)))
def test_a_matrix_has_the_arithmetic_of_a_train(A, B):
    a, b = A.to_matrix(), B.to_matrix()
    scale = norm(a) + norm(b)
    close((A + 2 * B).to_matrix(), a + 2 * b, scale)
    close((A * B).to_matrix(), a * b, norm(a) * norm(b))
    close(A.dot(B), np.sum(a * b), norm(a) * norm(b))
    close(A.norm(), norm(a))
    close(A.kron(B).to_matrix(), np.kron(a, b))
    close(A.left_orthogonal().to_matrix(), a, norm(a))
    total, report = (A + A).round(eps=1e-10, return_report=True)
    assert total.row_shape == A.row_shape
    assert report.relative_error <= 1e-10
    assert_tt_close(total, 2 * A, rtol=1e-9)


def test_the_identity():
    eye = ttlib.eye((2, 3, 2), like=torch.zeros(1, dtype=torch.float64))
    assert torch.equal(eye.to_matrix(), torch.eye(12, dtype=torch.float64))
    v = ttlib.random((2, 3, 2), ranks=2, seed=0, like=torch.zeros(1, dtype=torch.float64))
    assert_tt_close(eye @ v, v, rtol=1e-14)
    assert float(eye.trace()) == 12.0


def test_a_train_and_its_matrix_hold_the_same_numbers():
    A = ttlib.decompose_matrix(np.arange(48.0).reshape(6, 8), row_shape=[2, 3], col_shape=[4, 2])
    tt = A.to_tensor_train()
    assert tt.shape == (8, 6)
    back = ttlib.TTMatrix.from_tensor_train(tt, row_shape=[2, 3], col_shape=[4, 2])
    np.testing.assert_array_equal(back.to_matrix(), A.to_matrix())


def test_half_precision_products_come_back():
    A = ttlib.eye((4, 4), like=torch.zeros(1, dtype=torch.bfloat16))
    x = torch.randn(3, 16, dtype=torch.bfloat16)
    assert torch.equal(A @ x, x)
    assert (A @ A).dtype == torch.bfloat16
    assert float(A.trace()) == 16.0


def test_gradients_flow_through_products():
    rng = np.random.default_rng(0)
    cores = [torch.tensor(rng.standard_normal(s), requires_grad=True) for s in ((1, 2, 3, 2), (2, 3, 2, 1))]
    x = torch.tensor(rng.standard_normal((4, 6)), requires_grad=True)

    def product(a, b, x):
        A = ttlib.TTMatrix((a, b))
        return (A @ x).sum() + ((A.T @ A).trace()) + (A @ A.T).norm()

    assert torch.autograd.gradcheck(product, (*cores, x))


def test_it_describes_itself():
    assert repr(ttlib.eye((2, 3))) == (
        "TTMatrix(row_shape=(2, 3), col_shape=(2, 3), ranks=(1, 1, 1), parameters=13, compression=2.8x, numpy float64)"
    )


A = ttlib.eye((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: A @ ttlib.eye((3, 2)), ttlib.ShapeError, r"equal modes in between, got columns \(2, 3\) and \(3, 2\)"),
        (lambda: A @ ttlib.ones((6,)), ttlib.ShapeError, "equal modes in between"),
        (lambda: ttlib.ones((3, 2)) @ A, ttlib.ShapeError, "equal modes in between"),
        (lambda: A @ np.ones((6, 5)), ttlib.ShapeError, r"6 x 6 TT-matrix needs vectors of 6.*got \(6, 5\)"),
        (lambda: A @ np.float64(3), ttlib.ShapeError, "along the last axis"),
        (lambda: np.ones(5) @ A, ttlib.ShapeError, r"got \(5,\)"),
        (
            lambda: A @ np.ones(6, dtype=np.float32),
            ttlib.BackendError,
            "vectors are numpy float32.*TT-matrix is numpy float64",
        ),
        (lambda: A @ torch.ones(6), ttlib.BackendError, "arrays of one library"),
        (lambda: A @ ttlib.eye((2, 3), like=np.zeros(1, np.float32)), ttlib.BackendError, "@ needs one library, dtype"),
        (lambda: A @ 3, TypeError, "unsupported operand"),
        (lambda: "x" @ A, TypeError, "unsupported operand"),
        (lambda: A[0], ttlib.BackendError, "a row and a column"),
        (lambda: A[0, 6], ttlib.ShapeError, "index 6 is out of range"),
        (lambda: ttlib.TTMatrix([np.ones((1, 2, 1))]), ttlib.ShapeError, r"four-dimensional \(r, m, n, r'\)"),
        (
            lambda: ttlib.decompose_matrix(np.ones((4, 6)), row_shape=[2, 2], col_shape=[6]),
            ttlib.ShapeError,
            "2 row modes.*1 column modes.*pad",
        ),
        (
            lambda: ttlib.decompose_matrix(np.ones((4, 6)), row_shape=[2, 3], col_shape=[2, 3]),
            ttlib.ShapeError,
            r"make a 6 x 6 matrix, got an array of shape \(4, 6\)",
        ),
        (
            lambda: ttlib.decompose_matrix(np.ones((4, 9)), row_shape=[2, 3], col_shape=[2, 3]),
            ttlib.ShapeError,
            r"make a 6 x 6 matrix, got an array of shape \(4, 9\)",
        ),
        (
            lambda: ttlib.TTMatrix.from_tensor_train(ttlib.ones((4, 6)), row_shape=[2, 2], col_shape=[2, 2]),
            ttlib.ShapeError,
            r"must be, one by one, the modes \(4, 6\)",
        ),
        (
            lambda: ttlib.decompose_matrix(np.ones((4, 6)), row_shape=[2, 2], col_shape=[2, 3]).trace(),
            ttlib.ShapeError,
            "equal row and column",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()

"""The value type: what it says of itself, and which cores it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttlib
from tests.core.strategies import shapes


def dense(cores):
    """Contract by numpy.einsum, one core at a time."""
    result = np.asarray(cores[0])
    for core in cores[1:]:
        result = np.einsum("...r,rns->...ns", result, np.asarray(core))
    return result[0, ..., 0]


@given(shapes, st.integers(1, 6), st.integers(0, 2**31))
def test_dense_forms_agree_with_einsum(shape, rank, seed):
    tt = ttlib.random(shape, ranks=rank, seed=seed)
    expected = dense(tt.cores)
    np.testing.assert_allclose(tt.to_tensor(), expected, atol=1e-12 * max(1, np.abs(expected).max()))
    for k in range(len(shape) + 1):
        rows, cols = int(np.prod(shape[:k])), int(np.prod(shape[k:]))
        np.testing.assert_array_equal(tt.to_matrix(rows, cols), tt.to_tensor().reshape(rows, cols))


@given(shapes.filter(lambda s: len(s) > 1), st.integers(1, 6), st.data())
def test_the_factor_pair_multiplies_to_the_matrix(shape, rank, data):
    tt = ttlib.random(shape, ranks=rank, seed=0)
    split = data.draw(st.integers(1, len(shape) - 1))
    rows, cols = int(np.prod(shape[:split])), int(np.prod(shape[split:]))
    u, v = tt.factor_pair(rows, cols)
    np.testing.assert_allclose(u @ v, tt.to_matrix(rows, cols), atol=1e-11 * max(1, np.abs(tt.to_tensor()).max()))


def test_a_single_column_has_a_factor_pair_too(asarray):
    tt = ttlib.decompose(asarray(np.arange(12.0).reshape(12, 1)), shape=[3, 4])
    u, v = tt.factor_pair(12, 1)
    np.testing.assert_allclose(np.asarray(u @ v), np.arange(12.0).reshape(12, 1), atol=1e-12)


def test_it_describes_itself():
    tt = ttlib.random([8, 8, 12, 8, 8], ranks=5, seed=0, like=torch.zeros(1))
    assert tt.shape == (8, 8, 12, 8, 8)
    assert tt.ranks == (1, 5, 5, 5, 5, 1)
    assert tt.order == 5
    assert tt.parameters == tt.size == sum(core.numel() for core in tt.cores) == 780
    assert tt.nbytes == 780 * 4
    assert tt.dtype == torch.float32
    assert tt.device == torch.device("cpu")
    assert repr(tt) == (
        "TensorTrain(shape=(8, 8, 12, 8, 8), ranks=(1, 5, 5, 5, 5, 1), parameters=780, compression=63.0x, torch float32)"
    )


def test_it_is_frozen_and_does_not_alias_the_callers_list():
    cores = list(ttlib.random([3, 4], ranks=2, seed=0).cores)
    tt = ttlib.TensorTrain(cores)
    cores.clear()
    assert len(tt.cores) == 2
    with pytest.raises(AttributeError):
        tt.cores = ()


@pytest.mark.parametrize(
    ("cores", "error", "message"),
    [
        ([], ttlib.ShapeError, "at least one core"),
        (np.ones((1, 2, 1)), ttlib.ShapeError, "must be a sequence.*got ndarray"),
        (3, ttlib.ShapeError, "got int"),
        ([np.ones((2, 2))], ttlib.ShapeError, r"core 0 has shape \(2, 2\)"),
        ([np.ones((1, 0, 1))], ttlib.ShapeError, "no side empty"),
        ([np.ones((1, 2, 3)), np.ones((2, 2, 1))], ttlib.RankError, "core 1.*left has rank 3"),
        ([np.ones((2, 2, 1))], ttlib.RankError, "core 0.*left has rank 1"),
        ([np.ones((1, 2, 3))], ttlib.RankError, "right rank must be 1, got 3"),
        ([np.ones((1, 2, 1)), torch.ones(1, 2, 1)], ttlib.BackendError, "numpy.ndarray, torch.Tensor"),
        (
            [np.ones((1, 2, 1)), np.ones((1, 2, 1), dtype=np.float32)],
            ttlib.BackendError,
            "core 1 is numpy float32 on cpu",
        ),
        ([[1.0]], ttlib.BackendError, "got builtins.list"),
    ],
)
def test_cores_that_form_no_train(cores, error, message):
    with pytest.raises(error, match=message):
        ttlib.TensorTrain(cores)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tt: tt.to_matrix(5, 5), "5 x 5 matrix has 25 entries, this tensor 24"),
        (lambda tt: tt.to_matrix(0, 24), "rows must be an integer >= 1, got 0"),
        (lambda tt: tt.factor_pair(3, 8), "no mode boundary"),
    ],
)
def test_matrices_that_do_not_fit(call, message):
    with pytest.raises(ttlib.ShapeError, match=message):
        call(ttlib.random([4, 6], ranks=2, seed=0))

"""Trains from nothing: constants, identities, rank one, orthogonal and spectral starts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttlib
from tests.core.strategies import norm, shapes


@given(shapes)
def test_constants_are_constant_at_rank_one(shape):
    np.testing.assert_array_equal(ttlib.ones(shape).to_tensor(), np.ones(shape))
    np.testing.assert_array_equal(ttlib.zeros(shape).to_tensor(), np.zeros(shape))
    np.testing.assert_array_equal(ttlib.eye(shape).to_matrix(), np.eye(int(np.prod(shape))))
    assert set(ttlib.ones(shape).ranks) == set(ttlib.zeros(shape).ranks) == set(ttlib.eye(shape).ranks) == {1}


@pytest.mark.parametrize("make", [ttlib.ones, ttlib.zeros, ttlib.eye])
def test_constants_take_library_and_dtype_from_like(make, asarray):
    like = asarray(np.zeros(2, np.float32))
    core = make((2, 3), like=like).cores[0]
    assert type(core) is type(like)
    assert core.dtype == like.dtype


@given(st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=4), min_size=1, max_size=4))
def test_rank_one_is_the_outer_product(lists):
    vectors = [np.array(values) for values in lists]
    expected = vectors[0]
    for vector in vectors[1:]:
        expected = np.multiply.outer(expected, vector)
    tt = ttlib.rank_one(vectors)
    np.testing.assert_allclose(tt.to_tensor(), expected, rtol=1e-12, atol=1e-12)
    assert set(tt.ranks) == {1}


def test_rank_one_takes_integers_and_keeps_graphs(asarray):
    tt = ttlib.rank_one([asarray(np.arange(3)), asarray(np.arange(4))])
    np.testing.assert_array_equal(np.asarray(tt.to_tensor()), np.multiply.outer(np.arange(3.0), np.arange(4.0)))
    vector = torch.ones(3, requires_grad=True)
    ttlib.rank_one([vector, vector]).to_tensor().sum().backward()
    assert vector.grad.tolist() == [6.0, 6.0, 6.0]


@given(shapes, st.integers(1, 5), st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_orthogonal_starts_have_the_stated_size_in_every_draw(shape, rank, std, seed):
    tt = ttlib.random_orthogonal(shape, ranks=rank, std=std, seed=seed)
    assert norm(tt.to_tensor()) / np.sqrt(np.prod(shape)) == pytest.approx(std, rel=1e-10)
    assert tt.ranks == ttlib.clip_ranks(tuple(shape), rank)
    for core in tt.cores[:-1]:
        unfolded = core.reshape(-1, core.shape[2])
        np.testing.assert_allclose(unfolded.T @ unfolded, np.eye(core.shape[2]), atol=1e-13)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_orthogonal_starts_whose_norm_no_core_could_hold_spread_it(dtype):
    tt = ttlib.random_orthogonal((10,) * 400, ranks=2, seed=0, like=torch.zeros(1, dtype=getattr(torch, dtype)))
    assert tt.log_norm() == pytest.approx(200 * np.log(10), rel=1e-2)


def test_orthogonal_starts_are_uniform_and_the_same_in_every_library():
    draws = np.array([ttlib.random_orthogonal((3, 4), ranks=1, seed=k).cores[0][0, :, 0] for k in range(4000)])
    assert np.abs(draws.mean(axis=0)).max() < 0.04  # uniform on the sphere: mean 0, mean square 1/3
    assert np.abs((draws**2).mean(axis=0) - 1 / 3).max() < 0.03
    ours = ttlib.random_orthogonal((3, 4), ranks=2, seed=7)
    theirs = ttlib.random_orthogonal((3, 4), ranks=2, seed=7, like=torch.zeros(1, dtype=torch.float64))
    np.testing.assert_array_equal(ours.cores[1], theirs.cores[1].numpy())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ttlib.ones(()), ttlib.ShapeError, "at least one mode"),
        (lambda: ttlib.eye((2, 0)), ttlib.ShapeError, "mode 1 of shape.*got 0"),
        (lambda: ttlib.rank_one([]), ttlib.ShapeError, "at least one core"),
        (lambda: ttlib.rank_one([np.ones((2, 2))]), ttlib.ShapeError, r"vector 0 has shape \(2, 2\)"),
        (lambda: ttlib.rank_one([np.ones(0)]), ttlib.ShapeError, "vector 0 has shape"),
        (lambda: ttlib.rank_one([np.ones(2), torch.ones(2)]), ttlib.BackendError, "arrays of one library"),
        (lambda: ttlib.rank_one([np.ones(2, dtype=bool)]), ttlib.BackendError, "dtype bool"),
        (lambda: ttlib.rank_one([[1.0]]), ttlib.BackendError, "builtins.list"),
        (lambda: ttlib.random_orthogonal((2, 3), ranks=2, std=-1.0), ttlib.RankError, "std must be .* >= 0, got -1.0"),
        (lambda: ttlib.random_orthogonal((2, 3), ranks=0), ttlib.RankError, "got 0"),
    ],
)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Spectral starts

W = np.random.default_rng(0).standard_normal((24, 20)) / (1 + np.arange(20))


@pytest.mark.parametrize("part", ["leading", "trailing"])
@pytest.mark.parametrize("ranks", [2, [4, 3, 5]])
def test_train_and_residual_add_up_to_the_matrix(part, ranks, asarray):
    start = ttlib.spectral_start(asarray(W), shape=[4, 6, 4, 5], ranks=ranks, part=part)
    train = np.asarray(start.train.to_matrix(24, 20))
    np.testing.assert_allclose(train + np.asarray(start.residual), W, atol=1e-14)
    assert start.share == pytest.approx((norm(train) / norm(W)) ** 2, rel=1e-10)
    assert type(start.residual) is type(start.train.cores[0])


def test_with_full_ranks_the_train_is_the_truncated_svd():
    u, s, vh = np.linalg.svd(W)
    for part, keep in (("leading", slice(0, 3)), ("trailing", slice(17, 20))):
        start = ttlib.spectral_start(W, shape=[24, 20], ranks=3, part=part)
        np.testing.assert_allclose(start.train.to_tensor(), (u[:, keep] * s[keep]) @ vh[keep], atol=1e-13)


def test_leading_holds_much_of_the_matrix_and_trailing_little():
    leading, trailing = (
        ttlib.spectral_start(W, shape=[4, 6, 4, 5], ranks=[4, 5, 5], part=part) for part in ("leading", "trailing")
    )
    assert leading.share > 0.5
    assert trailing.share < 0.05


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ttlib.spectral_start(W, shape=[24, 20], ranks=3, part="middle"),
            ttlib.ShapeError,
            "'middle'.*'leading'",
        ),
        (
            lambda: ttlib.spectral_start(W.ravel(), shape=[24, 20], ranks=3),
            ttlib.ShapeError,
            r"takes a matrix.*\(480,\)",
        ),
        (lambda: ttlib.spectral_start(W, shape=[5, 96], ranks=3), ttlib.ShapeError, "no mode boundary"),
        (
            lambda: ttlib.spectral_start(W * np.nan, shape=[24, 20], ranks=3, part="trailing"),
            ttlib.NonFiniteError,
            "480",
        ),
        (lambda: ttlib.spectral_start([[1.0]], shape=[1, 1], ranks=1), ttlib.BackendError, "builtins.list"),
    ],
)
def test_spectral_starts_that_cannot_be_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_zero_matrix_has_a_spectral_start_too():
    start = ttlib.spectral_start(np.zeros((4, 6)), shape=[2, 2, 6], ranks=2)
    assert start.share == 0.0
    assert not start.residual.any()

"""Randomised rounding: near the best, certified on demand, exact where a promise is asked; and sums by sketch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ttlib
from tests.core.strategies import norm
from tests.core.test_rounding_interfaces import DTYPES, train, unit
from ttlib.testing import assert_tt_close

SHAPE = (9, 8, 8, 9)


def decaying(rank=40, power=2.0, dtype="float64", seed=0, shape=SHAPE):
    weights = (1.0 + np.arange(rank)) ** -power
    tt = train(shape, rank, dtype, seed)
    cores = [core * weights.astype(core.real.dtype) for core in tt.cores[:-1]]
    return ttlib.TensorTrain([*cores, tt.cores[-1]])


def dense(tt):
    kind = np.result_type(np.asarray(tt.cores[0]).dtype, np.float64)
    return ttlib.TensorTrain([np.asarray(core).astype(kind) for core in tt.cores]).to_tensor()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from(DTYPES), st.integers(1, 6))
def test_a_sketch_is_near_the_best_and_its_report_is_true(seed, power, dtype, rank):
    tt = decaying(40, power, dtype, seed)
    rounded, report = tt.round(ranks=rank, driver="sketch", return_report=True)
    _, best = tt.round(ranks=rank, return_report=True)
    error = norm(dense(rounded) - dense(tt)) / norm(dense(tt))
    assert report.driver == "sketch"
    assert report.ranks == rounded.ranks
    assert max(rounded.ranks) <= rank
    assert report.tolerance_met is None
    assert report.relative_error == pytest.approx(error, rel=0.01, abs=30 * unit(dtype))
    # no train of these ranks is better than TT-SVD by more than the root of the number of bonds
    assert best.relative_error <= np.sqrt(3) * error + 30 * unit(dtype)
    assert error <= 1.03 * best.relative_error + 30 * unit(dtype)


def test_a_certificate_keeps_its_digits_where_the_error_is_tiny():
    small = train(SHAPE, 5, seed=1)
    for size in (1e-3, 1e-7, 1e-11):
        tt = small + decaying(35, 1.0, seed=2) * size
        rounded, report = tt.round(ranks=5, driver="sketch", return_report=True)
        error = norm(dense(rounded) - dense(tt)) / norm(dense(tt))
        assert error < 3 * size
        assert report.relative_error == pytest.approx(error, rel=0.01, abs=100 * unit("float64"))


@pytest.mark.parametrize("count", [2, 4])
def test_redundant_ranks_go_without_an_error(count):
    tt = train(SHAPE, 20, seed=3)
    base = tt.round(ranks=4)
    total = sum([tt - base, base - tt] * (count - 1), start=base)
    rounded, report = total.round(ranks=4, driver="sketch", return_report=True)
    assert_tt_close(rounded, base, rtol=1e-12)
    assert report.relative_error <= 100 * unit("float64")


def test_a_report_changes_no_number_and_the_same_train_gives_the_same_answer(asarray):
    tt = decaying()
    tt = ttlib.TensorTrain([asarray(core) for core in tt.cores])
    first, again = tt.round(ranks=4, driver="sketch"), tt.round(ranks=4, driver="sketch")
    reported, _ = tt.round(ranks=4, driver="sketch", return_report=True)
    for a, b, c in zip(first.cores, again.cores, reported.cores, strict=True):
        assert type(a) is type(tt.cores[0])
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        np.testing.assert_array_equal(np.asarray(a), np.asarray(c))
    for core in first.cores[:-1]:
        unfolded = np.asarray(core).reshape(-1, core.shape[2])
        np.testing.assert_allclose(unfolded.T @ unfolded, np.eye(core.shape[2]), atol=1e-12)


@pytest.mark.parametrize("eps", [0.3, 1e-2, 1e-6])
def test_a_tolerance_makes_rounding_exact(eps):
    tt = decaying()
    rounded, report = tt.round(eps=eps, driver="sketch", return_report=True)
    assert "sketch" not in report.drivers
    assert norm(dense(rounded) - dense(tt)) <= eps * norm(dense(tt))
    assert rounded.ranks == tt.round(eps=eps).ranks


def test_where_a_sketch_would_not_pay_rounding_is_exact_and_says_so():
    tt = train(SHAPE, 12)
    rounded, report = tt.round(ranks=4, driver="sketch", return_report=True)
    assert all(reason.startswith("a sketch would not pay") for reason in report.reasons)
    assert_tt_close(rounded, tt.round(ranks=4), rtol=1e-12)
    vector = ttlib.TensorTrain([np.ones((1, 5, 1))])
    assert_tt_close(vector.round(driver="sketch"), vector, rtol=0)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_the_scale_does_not_matter(scale):
    tt = decaying()
    plain, expected = tt.round(ranks=4, driver="sketch", return_report=True)
    for place in range(tt.order):
        cores = [core * scale if k == place else core for k, core in enumerate(tt.cores)]
        scaled, report = ttlib.TensorTrain(cores).round(ranks=4, driver="sketch", return_report=True)
        assert report.relative_error == pytest.approx(expected.relative_error, rel=1e-9)
        assert scaled.log_norm() == pytest.approx(plain.log_norm() + np.log(scale), rel=1e-9)


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_trains_beyond_the_range_of_doubles(factor):
    tt = train((4,) * 30, 40)
    beyond = ttlib.TensorTrain([core * factor for core in tt.cores])  # norms of 1e-600 and 1e600
    rounded, report = beyond.round(ranks=4, driver="sketch", return_report=True)
    _, expected = tt.round(ranks=4, driver="sketch", return_report=True)
    assert report.relative_error == pytest.approx(expected.relative_error, rel=1e-6)
    assert rounded.log_norm() == pytest.approx(tt.round(ranks=4, driver="sketch").log_norm() + 30 * np.log(factor))


def test_a_zero_train_stays_zero():
    tt = decaying() * 0.0
    rounded, report = tt.round(ranks=4, driver="sketch", return_report=True)
    assert not rounded.to_tensor().any()
    assert report.relative_error == 0.0


def test_gradients_flow_through_a_round_that_asks_for_a_sketch():
    cores = tuple(torch.tensor(core, requires_grad=True) for core in train((3, 4, 3), 12).cores)

    def cut(*cores):
        return ttlib.TensorTrain(cores).round(ranks=2, driver="sketch").to_tensor()

    assert torch.autograd.gradcheck(cut, cores)


# Sums


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_long_sum_is_near_the_best_truncation(dtype):
    terms = [train((6, 7, 8, 6), 4 + k % 2, dtype, seed=k) * (1 / (1 + k) ** 3) for k in range(9)]
    exact = sum(terms[1:], start=terms[0])
    best, report = exact.round(ranks=5, return_report=True)
    sketched = ttlib.round_sum(terms, ranks=5)
    error = norm(dense(sketched) - dense(exact)) / norm(dense(exact))
    assert best.ranks == sketched.ranks
    assert sketched.dtype == dtype
    assert 0.9 * report.relative_error <= error <= 1.02 * report.relative_error


def test_a_seed_decides_the_sketch_and_oversampling_its_width():
    terms = [train((6, 7, 8, 6), 4, seed=k) * (1 / (1 + k) ** 2) for k in range(9)]
    exact = sum(terms[1:], start=terms[0])

    def error(total):
        return float((total - exact).norm() / exact.norm())

    first, second = ttlib.round_sum(terms, ranks=4), ttlib.round_sum(terms, ranks=4, seed=np.random.default_rng(1))
    assert np.array_equal(first.cores[1], ttlib.round_sum(terms, ranks=4).cores[1])
    assert not np.array_equal(first.cores[1], second.cores[1])
    assert error(first) < error(ttlib.round_sum(terms, ranks=4, oversampling=0))


def test_a_short_sum_is_formed_and_rounded_exactly():
    terms = [train((6, 7, 8, 6), 4, seed=k) for k in range(3)]
    exact = sum(terms[1:], start=terms[0]).round(ranks=5)
    assert_tt_close(ttlib.round_sum(terms, ranks=5), exact, rtol=1e-12)


def test_terms_of_unlike_scales_and_ranks():
    """Cores of 1e200 beside cores of 1e-200, of terms that weigh the same."""
    rng = np.random.default_rng(0)
    terms, expected = [], 0
    for k in range(12):
        tt = train((6, 7, 6), 3 + k % 3, seed=k)
        power = 10.0 ** rng.integers(-150, 150)
        expected = expected + tt.to_tensor()
        terms.append(ttlib.TensorTrain((tt.cores[0] * power, tt.cores[1], tt.cores[2] / power)))
    total = ttlib.round_sum(terms, ranks=6)  # all that a tensor of this shape can need
    assert norm(total.to_tensor() - expected) <= 1e-12 * norm(expected)


def test_terms_that_cancel_and_terms_that_vanish_beside_others():
    tt, other = train(SHAPE, 10, seed=0), train(SHAPE, 3, seed=1)
    total = ttlib.round_sum([tt, -tt, tt, -tt, other, other * 1e-320, tt * 0.0], ranks=3)
    assert norm(dense(total) - dense(other)) <= 1e-12 * norm(dense(other))


def test_what_is_not_finite_in_a_long_sum_is_refused():
    terms = [train(SHAPE, 10, seed=k) for k in range(6)]
    terms[3].cores[2][0, 0, 0] = np.nan
    with pytest.raises(ttlib.NonFiniteError, match="core 2"):
        ttlib.round_sum(terms, ranks=3)

"""Rounding: the promise, the exact error, ranks as small as TT-SVD's, budgets, sums by sketch."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttlib
from tests.core.strategies import norm, shapes
from ttlib.testing import assert_tt_close, tensor_trains

pairs = shapes.flatmap(lambda shape: st.tuples(tensor_trains(shape=shape), tensor_trains(shape=shape)))


@given(pairs, st.sampled_from([0.5, 0.1, 1e-3, 1e-6]))
def test_the_tolerance_is_kept_and_the_reported_error_is_the_true_one(pair, eps):
    total = pair[0] + pair[1]
    rounded, report = total.round(eps=eps, return_report=True)
    dense = total.to_tensor()
    error = norm(rounded.to_tensor() - dense) / (norm(dense) or 1)
    assert error <= eps
    assert report.tolerance_met
    assert report.relative_error == pytest.approx(error, rel=0.01, abs=1e-14)


@given(pairs, st.integers(1, 4))
def test_rounding_to_ranks_is_as_good_as_decomposing_the_dense_tensor(pair, rank):
    total = pair[0] + pair[1]
    _, ours = total.round(ranks=rank, return_report=True)
    _, dense = ttlib.decompose(total.to_tensor(), ranks=rank, return_report=True)
    assert ours.relative_error == pytest.approx(dense.relative_error, rel=1e-6, abs=1e-13)
    assert all(a <= rank for a in ours.ranks)


@given(tensor_trains())
def test_the_singular_values_are_those_of_the_unfoldings(tt):
    dense = tt.to_tensor()
    for k, values in enumerate(tt.singular_values(), start=1):
        expected = np.linalg.svd(dense.reshape(int(np.prod(tt.shape[:k])), -1), compute_uv=False)
        size = min(len(values), len(expected))
        np.testing.assert_allclose(values[:size], expected[:size], atol=1e-12 * expected[0])


@given(tensor_trains())
def test_a_sum_with_itself_returns_to_the_ranks_it_had(tt):
    minimal = tt.round()
    rounded = (minimal + minimal).round(eps=1e-10)
    assert rounded.ranks == minimal.ranks
    assert_tt_close(rounded, 2 * minimal, rtol=1e-9)


def test_rounding_keeps_library_dtype_and_leaves_left_orthogonal_cores(asarray):
    tt = ttlib.decompose(asarray(np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)))
    rounded = tt.round(ranks=3)
    assert type(rounded.cores[0]) is type(tt.cores[0])
    assert rounded.dtype == tt.dtype
    for core in rounded.cores[:-1]:
        unfolded = np.asarray(core).reshape(-1, core.shape[2])
        np.testing.assert_allclose(unfolded.T @ unfolded, np.eye(core.shape[2]), atol=1e-5)


def test_complex_trains_round():
    rng = np.random.default_rng(0)
    tensor = rng.standard_normal((4, 5, 6)) + 1j * rng.standard_normal((4, 5, 6))
    tt = ttlib.decompose(tensor)
    rounded, report = (tt + tt).round(ranks=3, return_report=True)
    error = norm(rounded.to_tensor() - 2 * tensor) / norm(2 * tensor)
    assert report.relative_error == pytest.approx(error, rel=1e-10)


def test_a_zero_train_rounds_to_rank_one():
    rounded, report = (ttlib.random((3, 4, 5), ranks=3, seed=0) * 0.0).round(eps=1e-3, return_report=True)
    assert rounded.ranks == (1, 1, 1, 1)
    assert report.relative_error == 0.0
    assert not rounded.to_tensor().any()


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_the_scale_of_the_numbers_does_not_matter(scale):
    tt = ttlib.random((4, 5, 6), ranks=4, seed=0)
    plain = tt.round(eps=0.3, return_report=True)[1]
    scaled, report = (tt * scale).round(eps=0.3, return_report=True)
    assert report.ranks == plain.ranks
    assert report.relative_error == pytest.approx(plain.relative_error, rel=1e-10)
    np.testing.assert_allclose(report.singular_values[0], plain.singular_values[0] * scale, rtol=1e-9)
    assert norm(scaled.to_tensor()) == pytest.approx(scale * norm(tt.round(eps=0.3).to_tensor()), rel=1e-10)


def test_gradients_flow_through_rounding_even_of_rank_deficient_trains():
    rng = np.random.default_rng(0)
    cores = tuple(torch.tensor(rng.standard_normal(s), requires_grad=True) for s in ((1, 3, 2), (2, 4, 3), (3, 3, 1)))

    def doubled_and_cut(*cores):
        tt = ttlib.TensorTrain(cores)
        return (tt + tt).round(ranks=2).to_tensor()

    assert torch.autograd.gradcheck(doubled_and_cut, cores)
    assert torch.autograd.gradcheck(lambda *c: ttlib.TensorTrain(c).round(eps=0.3).to_tensor(), cores)


def test_every_driver_rounds():
    tt = ttlib.random((6, 7, 8), ranks=5, seed=0)
    total = tt + tt
    errors = [total.round(ranks=3, driver=d, return_report=True)[1].relative_error for d in ("lapack", "qr", "gram")]
    assert errors == pytest.approx([errors[0]] * 3, rel=1e-10)


# Budgets


def brute_force(shape, spectra, budget):
    """The least discarded energy over all ranks that fit."""
    choices = itertools.product(*(range(1, len(s) + 1) for s in spectra))
    fitting = [r for r in choices if ttlib.count_parameters(shape, ranks=r) <= budget]
    return min(sum(sum(x**2 for x in s[k:]) for s, k in zip(spectra, r, strict=True)) for r in fitting)


@given(st.integers(0, 2**31), st.sampled_from([(4, 5, 6), (3, 3, 3, 3), (2, 6, 5), (8, 8)]), st.floats(0.0, 1.0))
def test_a_budget_is_kept_and_nearly_as_well_spent_as_can_be(seed, shape, fraction):
    rng = np.random.default_rng(seed)
    tensor = rng.standard_normal(shape) / (1 + np.arange(shape[-1])) ** 2
    _, full = ttlib.decompose(tensor, return_report=True)
    least, most = ttlib.count_parameters(shape, ranks=1), full.parameters
    budget = int(least + fraction * (most - least))
    ranks = ttlib.ranks_for_budget(shape, singular_values=full.singular_values, parameters=budget)
    assert ttlib.count_parameters(shape, ranks=ranks) <= budget
    energy = sum(float(np.sum(s[r:] ** 2)) for s, r in zip(full.singular_values, ranks[1:-1], strict=True))
    best = brute_force(shape, [list(s) for s in full.singular_values], budget)
    assert energy <= 1.5 * best + 0.02 * float(np.sum(tensor**2))


@given(st.integers(0, 2**31), st.integers(30, 200))
def test_no_rank_that_still_fits_a_budget_is_left_out(seed, budget):
    shape = (4, 5, 6, 3)
    _, full = ttlib.decompose(np.random.default_rng(seed).standard_normal(shape), return_report=True)
    ranks = ttlib.ranks_for_budget(shape, singular_values=full.singular_values, parameters=budget)
    for bond in range(1, len(shape)):
        grown = tuple(rank + (k == bond) for k, rank in enumerate(ranks))
        if ttlib.clip_ranks(shape, grown) == grown:
            assert ttlib.count_parameters(shape, ranks=grown) > budget


@pytest.mark.parametrize("options", [{"parameters": 300}, {"compression": 2.0}, {"parameters": 300, "eps": 0.2}])
def test_decompose_and_round_take_budgets(options, asarray):
    tensor = np.random.default_rng(0).standard_normal((8, 9, 10)) / (1 + np.arange(10)) ** 2
    for tt, report in (
        ttlib.decompose(asarray(tensor), return_report=True, **options),
        ttlib.decompose(asarray(tensor)).round(return_report=True, **options),
    ):
        assert tt.parameters <= options.get("parameters", 360)
        error = norm(np.asarray(tt.to_tensor()) - tensor) / norm(tensor)
        assert report.relative_error == pytest.approx(error, rel=1e-8)
        assert report.tolerance_met is (error <= 0.2 if "eps" in options else None)


def test_a_larger_budget_hardly_ever_makes_a_larger_error():
    """What the greedy choice lowers is the bound on the error; the error itself follows it within a few per cent."""
    tensor = np.random.default_rng(1).standard_normal((6, 7, 8, 5)) / (1 + np.arange(5)) ** 2
    errors = [ttlib.decompose(tensor, parameters=p, return_report=True)[1].relative_error for p in range(40, 900, 40)]
    assert all(later <= earlier * 1.08 for earlier, later in itertools.pairwise(errors))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda tt: tt.round(parameters=10), ttlib.RankError, r"needs 15 parameters at ranks of 1, the budget is 10"),
        (lambda tt: tt.round(parameters=0), ttlib.ShapeError, "parameters must be an integer >= 1, got 0"),
        (lambda tt: tt.round(compression=0.0), ttlib.RankError, "above 0.*got 0.0"),
        (lambda tt: tt.round(compression=float("nan")), ttlib.RankError, "got nan"),
        (lambda tt: tt.round(compression="x"), ttlib.RankError, "got 'x'"),
        (lambda tt: tt.round(compression=2.0, parameters=20), ttlib.RankError, "not both"),
        (lambda tt: tt.round(ranks=2, parameters=20), ttlib.RankError, "give ranks .2. or a budget"),
        (lambda tt: tt.round(ranks=0), ttlib.RankError, ">= 1, got 0"),
        (lambda tt: tt.round(eps=1.5), ttlib.RankError, "from 0 to 1.*got 1.5"),
        (lambda tt: tt.round(driver="svdd"), ttlib.UnknownDriverError, "'svdd' does not exist"),
        (
            lambda tt: ttlib.ranks_for_budget((4, 5), singular_values=[], parameters=20),
            ttlib.RankError,
            "1 inner bonds, got singular values for 0",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(ttlib.random((4, 5, 6), ranks=3, seed=0))


# Sums


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_sketched_sum_of_low_rank_is_exact(count, asarray):
    base = ttlib.decompose(asarray(ttlib.random((5, 6, 7, 4), ranks=3, seed=0).to_tensor()))
    weights = np.random.default_rng(0).standard_normal(count)
    total = ttlib.round_sum([float(w) * base for w in weights], ranks=3)
    assert total.ranks == (1, 3, 3, 3, 1)
    assert_tt_close(total, float(weights.sum()) * base, rtol=1e-10)


def test_a_sketched_sum_is_near_the_best_truncation():
    terms = [ttlib.random((6, 7, 8, 6), ranks=5, seed=k) / (1 + k) ** 3 for k in range(8)]
    exact = sum(terms[1:], start=terms[0])
    best, report = exact.round(ranks=5, return_report=True)
    sketched = ttlib.round_sum(terms, ranks=5)
    error = float((sketched - exact).norm() / exact.norm())
    assert max(sketched.ranks) <= 5
    assert report.relative_error <= error * (1 + 1e-9)
    assert error <= 1.3 * report.relative_error
    assert np.array_equal(sketched.cores[1], ttlib.round_sum(terms, ranks=5).cores[1])
    assert not np.array_equal(sketched.cores[1], ttlib.round_sum(terms, ranks=5, seed=1).cores[1])
    assert best.ranks == sketched.ranks


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_sketched_sums_of_any_scale(scale):
    tt = ttlib.random((5, 6, 7), ranks=2, seed=0) * scale
    assert_tt_close(ttlib.round_sum([tt, tt], ranks=2), 2 * tt, rtol=1e-10)


def test_sketched_sums_of_trains_beyond_the_range_of_doubles():
    ones = ttlib.ones((10,) * 400)
    total = ttlib.round_sum([ones, ones], ranks=1)
    assert total.log_norm() == pytest.approx(200 * np.log(10) + np.log(2), rel=1e-12)


def test_sums_of_matrices_and_of_nothing():
    eye = ttlib.eye((3, 4))
    assert_tt_close(ttlib.round_sum([eye, eye], ranks=2), 2 * eye, rtol=1e-12)
    with pytest.raises(ttlib.ShapeError, match="no terms"):
        ttlib.round_sum([], ranks=2)
    with pytest.raises(ttlib.ShapeError, match="round_sum needs equal modes"):
        ttlib.round_sum([ttlib.ones((3, 4)), ttlib.ones((4, 3))], ranks=2)
    with pytest.raises(ttlib.ShapeError, match="oversampling"):
        ttlib.round_sum([eye], ranks=2, oversampling=-1)

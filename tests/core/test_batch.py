"""Batches: every member as if decomposed alone, at one common rank profile."""

import numpy as np
import pytest
import torch

import ttlib
from tests.core.strategies import norm

RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((5, 12, 10)) / (1 + np.arange(10)) ** RNG.uniform(0, 3, size=(5, 1, 1))


def test_members_get_what_they_would_get_alone(asarray):
    trains, reports = ttlib.decompose_batch(asarray(WEIGHTS), shape=[3, 4, 5, 2], ranks=3, return_report=True)
    for member, tt, report in zip(WEIGHTS, trains, reports, strict=True):
        alone, expected = ttlib.decompose(asarray(member), shape=[3, 4, 5, 2], ranks=3, return_report=True)
        assert tt.ranks == alone.ranks
        assert type(tt.cores[0]) is type(alone.cores[0])
        np.testing.assert_allclose(np.asarray(tt.to_tensor()), np.asarray(alone.to_tensor()), atol=1e-12)
        assert report.relative_error == pytest.approx(expected.relative_error, rel=1e-10)
        for ours, theirs in zip(report.singular_values, expected.singular_values, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12 * theirs[0])


@pytest.mark.parametrize("eps", [0.5, 0.1, 1e-4])
@pytest.mark.parametrize("driver", ["auto", "gram", "sketch"])
def test_every_member_meets_the_tolerance_at_one_rank_profile(eps, driver):
    trains, reports = ttlib.decompose_batch(WEIGHTS, shape=[3, 4, 5, 2], eps=eps, driver=driver, return_report=True)
    assert len({tt.ranks for tt in trains}) == 1
    for member, tt, report in zip(WEIGHTS, trains, reports, strict=True):
        error = norm(tt.to_matrix(12, 10) - member) / norm(member)
        assert error <= eps
        assert report.tolerance_met
        assert report.relative_error == pytest.approx(error, rel=1e-6, abs=1e-14)
    stacked = [np.stack(cores) for cores in zip(*(tt.cores for tt in trains), strict=True)]
    assert stacked[0].shape[:2] == (5, 1)


def test_members_of_very_different_scales_share_a_batch():
    scaled = [WEIGHTS[0] * 1e200, WEIGHTS[0] * 1e-200, np.zeros_like(WEIGHTS[0])]
    trains, reports = ttlib.decompose_batch(scaled, shape=[3, 4, 5, 2], eps=0.1, return_report=True)
    for member, tt in zip(scaled, trains, strict=True):
        assert norm(tt.to_matrix(12, 10) - member) <= 0.1 * norm(member)
    assert reports[0].relative_error == pytest.approx(reports[1].relative_error, rel=1e-10)
    assert reports[2].relative_error == 0.0


def test_lists_of_torch_tensors_keep_their_graph():
    tensors = [torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def cut(*members):
        return sum(tt.to_tensor() * (k + 1) for k, tt in enumerate(ttlib.decompose_batch(members, ranks=2)))

    assert torch.autograd.gradcheck(cut, tensors)


def test_matrices_come_in_batches_too():
    found, reports = ttlib.decompose_matrix_batch(
        WEIGHTS, row_shape=[3, 4], col_shape=[5, 2], eps=0.2, return_report=True
    )
    for member, A, report in zip(WEIGHTS, found, reports, strict=True):
        error = norm(A.to_matrix() - member) / norm(member)
        assert error <= 0.2
        assert report.relative_error == pytest.approx(error, rel=1e-10)
    assert len({A.ranks for A in found}) == 1


def test_a_budget_is_shared_by_the_whole_batch():
    trains, reports = ttlib.decompose_batch(WEIGHTS, shape=[3, 4, 5, 2], parameters=60, return_report=True)
    assert all(tt.parameters <= 60 for tt in trains)
    for member, tt, report in zip(WEIGHTS, trains, reports, strict=True):
        assert report.relative_error == pytest.approx(norm(tt.to_matrix(12, 10) - member) / norm(member), rel=1e-8)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ([], ttlib.ShapeError, "batch is empty"),
        (np.float64(3.0) * np.ones(()), ttlib.ShapeError, "first axis numbers its members, got"),
        ([np.ones((2, 3)), np.ones((3, 2))], ttlib.ShapeError, r"array 1 of the batch has shape \(3, 2\)"),
        ([np.ones(4), np.ones(4, np.float32)], ttlib.BackendError, "array 1 of the batch is numpy float32"),
        ([np.ones(4), torch.ones(4)], ttlib.BackendError, "arrays of one library"),
        ([np.ones(4), np.array([1, np.nan, 0, 0])], ttlib.NonFiniteError, r"array 1 of the batch .*first at \(1,\)"),
        (np.ones((2, 0)), ttlib.ShapeError, "holds no entries"),
    ],
)
def test_what_cannot_be_is_refused(batch, error, message):
    with pytest.raises(error, match=message):
        ttlib.decompose_batch(batch)


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(TypeError, match="rank"):
        ttlib.decompose_batch([np.ones((2, 3))], rank=2)

"""TT-SVD: its promises as properties, numpy and tensorly as oracles, every error path."""

import array_api_strict
import numpy as np
import pytest
import tensorly as tl
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorly.decomposition import tensor_train

import ttlib
from tests.core.strategies import norm, tensors

ROUNDING = {"float32": 2e-6, "float64": 1e-14, "complex128": 1e-14}


def reconstruction_error(tt, tensor):
    difference = np.asarray(tt.to_tensor()).astype(np.result_type(tensor.dtype, np.float64)) - tensor
    size = norm(tensor)
    return norm(difference) / size if size else norm(difference)


@given(tensors(), st.sampled_from([0.5, 0.1, 1e-2, 1e-4]))
def test_the_tolerance_is_kept(tensor, eps):
    tt, report = ttlib.decompose(tensor, eps=eps, return_report=True)
    assert reconstruction_error(tt, tensor) <= eps + ROUNDING[tensor.dtype.name]
    assert report.tolerance_met


@given(tensors(), st.integers(1, 6))
def test_the_reported_error_is_the_true_one(tensor, rank):
    tt, report = ttlib.decompose(tensor, ranks=rank, return_report=True)
    true = reconstruction_error(tt, tensor)
    assert report.relative_error == pytest.approx(true, rel=0.01, abs=10 * ROUNDING[tensor.dtype.name])


@given(tensors(dtypes=("float64", "complex128")), st.integers(1, 4))
def test_the_error_is_quasi_optimal(tensor, rank):
    """Oseledets 2011, Theorem 2.2, with the singular values of the original unfoldings as oracle."""
    tt, report = ttlib.decompose(tensor, ranks=rank, return_report=True)
    scaled = tensor / (np.abs(tensor).max() or 1)
    bound = 0.0
    for k in range(1, tensor.ndim):
        unfolding = scaled.reshape(int(np.prod(tensor.shape[:k])), -1)
        bound += np.sum(np.linalg.svd(unfolding, compute_uv=False)[tt.ranks[k] :] ** 2)
    assert report.relative_error**2 <= bound / np.sum(np.abs(scaled) ** 2) * (1 + 1e-9) + 1e-26


@given(tensors())
def test_without_truncation_the_tensor_comes_back(tensor):
    tt = ttlib.decompose(tensor)
    assert tt.shape == tensor.shape
    assert reconstruction_error(tt, tensor) <= 20 * ROUNDING[tensor.dtype.name]
    assert tt.ranks == ttlib.clip_ranks(tt.shape, tt.ranks)


@given(tensors(dtypes=("float64", "complex128")), st.integers(1, 5))
def test_all_cores_but_the_last_are_left_orthogonal(tensor, rank):
    tt = ttlib.decompose(tensor, ranks=rank)
    for core in tt.cores[:-1]:
        unfolded = core.reshape(-1, core.shape[2])
        np.testing.assert_allclose(unfolded.conj().T @ unfolded, np.eye(core.shape[2]), atol=1e-12)


@pytest.mark.parametrize("ranks", [5, [2, 6, 3], [1, 4, 4, 4, 1]])
def test_tensorly_finds_the_same_tensor(ranks):
    tensor = np.random.default_rng(3).standard_normal((6, 5, 7, 4))
    ours = ttlib.decompose(tensor, ranks=ranks)
    theirs = tensor_train(tl.tensor(tensor), rank=list(ours.ranks))
    np.testing.assert_allclose(ours.to_tensor(), tl.tt_to_tensor(theirs), atol=1e-12)


@pytest.mark.parametrize("driver", ["lapack", "qr", "gram", "sketch"])
def test_drivers_agree_and_report_the_spectrum_of_each_unfolding(driver, asarray):
    tensor = np.random.default_rng(0).standard_normal((4, 5, 6, 3))
    tt, report = ttlib.decompose(asarray(tensor), driver=driver, return_report=True)
    np.testing.assert_allclose(np.asarray(tt.to_tensor()), tensor, atol=1e-13)
    fallbacks = {"lapack", "qr"} if driver in ("gram", "sketch") else set()  # for what they cannot see
    assert set(report.drivers) <= {driver} | fallbacks
    for k, values in enumerate(report.singular_values, start=1):
        unfolding = tensor.reshape(int(np.prod(tensor.shape[:k])), -1)
        expected = np.linalg.svd(unfolding, compute_uv=False)
        np.testing.assert_allclose(values[: len(expected)], expected, atol=1e-12)


def test_the_result_lives_where_the_input_does(asarray):
    tensor = asarray(np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32))
    tt = ttlib.decompose(tensor, shape=[2, 3, 8], ranks=2)
    assert all(type(core) is type(tensor) for core in tt.cores)
    assert all(core.dtype == tensor.dtype and core.device == tensor.device for core in tt.cores)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::2, 1:],
        lambda x: x.T,
        np.asfortranarray,
        lambda x: x[::-1],
        lambda x: np.broadcast_to(x[:1], (12, 9)),
    ],
    ids=["strided", "transposed", "fortran", "negative stride", "broadcast"],
)
def test_memory_layout_does_not_matter(view):
    tensor = view(np.random.default_rng(0).standard_normal((12, 9)))
    tt = ttlib.decompose(tensor)
    np.testing.assert_allclose(tt.to_tensor(), tensor, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_dtypes_come_back(dtype):
    torch.manual_seed(0)
    tensor = (torch.randn(6, 8, 5) / (1 + torch.arange(8.0)).square()[:, None]).to(dtype)
    kept = tensor.clone()
    tt, report = ttlib.decompose(tensor, eps=0.3, return_report=True)
    assert tt.dtype == dtype
    assert torch.equal(tensor, kept)
    error = (tt.to_tensor().double() - tensor.double()).norm() / tensor.double().norm()
    assert error <= 0.3
    assert report.relative_error > 0.1
    assert report.relative_error == pytest.approx(float(error), rel=0.01)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64, np.complex128])
def test_numpy_dtypes_come_back(dtype):
    tensor = np.random.default_rng(0).standard_normal((6, 8, 5)).astype(dtype)
    tt = ttlib.decompose(tensor)
    assert tt.dtype == dtype
    np.testing.assert_allclose(tt.to_tensor(), tensor, atol=100 * np.finfo(dtype).eps)


def test_integers_become_float64(asarray):
    tt = ttlib.decompose(asarray(np.arange(24).reshape(4, 6)), shape=[2, 2, 6])
    assert str(tt.dtype).endswith("float64")
    np.testing.assert_allclose(np.asarray(tt.to_matrix(4, 6)), np.arange(24).reshape(4, 6), atol=1e-12)


def test_half_precision_does_not_overflow_on_large_norms():
    tensor = np.full((200, 300), 500.0, dtype=np.float16)  # its singular value is 122,474 > 65,504
    tt = ttlib.decompose(tensor)
    np.testing.assert_allclose(tt.to_tensor(), tensor, rtol=5e-3)


def test_exactly_low_rank_data_gets_its_ranks():
    tt = ttlib.random((5, 6, 7, 4), ranks=2, seed=1)
    for kwargs in ({}, {"ranks": 5}, {"eps": 1e-10}, {"ranks": 5, "eps": 1e-10}):
        found, report = ttlib.decompose(tt.to_tensor(), return_report=True, **kwargs)
        assert found.ranks == (1, 2, 2, 2, 1)
        assert report.relative_error < 1e-13


def test_a_zero_tensor_has_rank_one_and_no_error(asarray):
    tt, report = ttlib.decompose(asarray(np.zeros((3, 4, 5))), eps=1e-6, return_report=True)
    assert tt.ranks == (1, 1, 1, 1)
    assert report.relative_error == 0.0
    assert not np.asarray(tt.to_tensor()).any()


@pytest.mark.parametrize("shape", [(7,), (1,), (1, 1, 1), (1, 4, 1, 5, 1), (2,) * 12])
def test_edge_shapes(shape, asarray):
    tensor = np.random.default_rng(0).standard_normal(shape)
    tt, report = ttlib.decompose(asarray(tensor), return_report=True)
    np.testing.assert_allclose(np.asarray(tt.to_tensor()), tensor, atol=1e-13)
    assert len(report.singular_values) == len(shape) - 1


def test_the_cap_wins_over_the_tolerance_and_the_report_says_so():
    tensor = np.random.default_rng(0).standard_normal((8, 8, 8))
    tt, report = ttlib.decompose(tensor, ranks=2, eps=1e-3, return_report=True)
    assert max(tt.ranks) == 2
    assert report.tolerance_met is False
    assert "TOLERANCE NOT MET" in str(report)
    assert ttlib.decompose(tensor, ranks=2, return_report=True)[1].tolerance_met is None


def test_what_one_bond_does_not_spend_the_next_one_may():
    """The first bond is exact at rank 1, so the second may lose all of the tolerance and not just its half."""
    matrix = np.diag([1.0, 0.09])
    tensor = np.multiply.outer(np.array([1.0, -2.0]), matrix)
    tt, report = ttlib.decompose(tensor, eps=0.1, return_report=True)
    assert tt.ranks == (1, 1, 1, 1)
    assert 0.1 / np.sqrt(2) < report.relative_error <= 0.1


def test_a_matrix_is_laid_over_the_shape_in_row_major_order():
    matrix = np.arange(768 * 64, dtype=np.float64).reshape(768, 64)
    tt = ttlib.decompose(matrix, shape=[8, 8, 12, 8, 8], ranks=5)
    assert tt.ranks == (1, 2, 2, 2, 2, 1)  # a sum of digits: i64 + j has TT rank 2
    np.testing.assert_allclose(tt.to_matrix(768, 64), matrix, rtol=1e-10, atol=1e-8)


def test_gradients_flow_through():
    torch.manual_seed(0)
    tensor = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ttlib.decompose(x, ranks=2).to_tensor(), tensor)


def test_report_counts():
    _, report = ttlib.decompose(np.random.default_rng(0).standard_normal((8, 8, 12)), ranks=3, return_report=True)
    assert report.parameters == ttlib.count_parameters([8, 8, 12], ranks=3)
    assert report.compression == pytest.approx(768 / report.parameters)


NAN = np.array([[1.0, np.nan, 2.0], [np.inf, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ttlib.decompose(NAN), ttlib.NonFiniteError, r"2 non-finite value\(s\).*first at \(0, 1\)"),
        (lambda: ttlib.decompose(torch.tensor(NAN)), ttlib.NonFiniteError, r"first at \(0, 1\)"),
        (lambda: ttlib.decompose([[1.0, 2.0]]), ttlib.BackendError, r"got builtins.list.*numpy.asarray"),
        (lambda: ttlib.decompose(np.ones((2, 2), dtype=bool)), ttlib.BackendError, "got dtype bool"),
        (lambda: ttlib.decompose(np.array(["a", "b"])), ttlib.BackendError, "got dtype str"),
        (
            lambda: ttlib.decompose(np.ones((4, 6)), shape=[4, 7]),
            ttlib.ShapeError,
            r"holds 28 entries.*holds 24.*is \(4, 6\)",
        ),
        (lambda: ttlib.decompose(np.ones((4, 6)), shape=[4, 0, 6]), ttlib.ShapeError, "mode 1 of shape.*got 0"),
        (lambda: ttlib.decompose(np.ones((4, 6)), shape=[4.0, 6]), ttlib.ShapeError, "mode 0.*got 4.0"),
        (lambda: ttlib.decompose(np.ones((4, 6)), shape="24"), ttlib.ShapeError, "got '24'"),
        (lambda: ttlib.decompose(np.ones((4, 6)), shape=24), ttlib.ShapeError, "got 24"),
        (lambda: ttlib.decompose(np.ones((4, 0, 6))), ttlib.ShapeError, "holds no entries"),
        (lambda: ttlib.decompose(np.float64(3.0) * np.ones(())), ttlib.ShapeError, "at least one mode"),
        (lambda: ttlib.decompose(np.ones((4, 6)), ranks=0), ttlib.RankError, ">= 1, got 0"),
        (lambda: ttlib.decompose(np.ones((4, 6)), ranks=-3), ttlib.RankError, ">= 1, got -3"),
        (lambda: ttlib.decompose(np.ones((4, 6)), ranks=2.5), ttlib.RankError, "got 2.5 of type float"),
        (lambda: ttlib.decompose(np.ones((4, 6)), ranks=True), ttlib.RankError, "got True"),
        (lambda: ttlib.decompose(np.ones((4, 6)), ranks="a"), ttlib.RankError, "got 'a'"),
        (lambda: ttlib.decompose(np.ones((4, 6)), ranks=[1, 2]), ttlib.RankError, "has 2 entries.*1 inner bonds"),
        (lambda: ttlib.decompose(np.ones((4, 6)), ranks=[2, 2, 2]), ttlib.RankError, "start and end with 1"),
        (lambda: ttlib.decompose(np.ones((4, 6)), eps=-1), ttlib.RankError, "from 0 to 1.*got -1"),
        (lambda: ttlib.decompose(np.ones((4, 6)), eps=float("nan")), ttlib.RankError, "got nan"),
        (lambda: ttlib.decompose(np.ones((4, 6)), eps=2.0), ttlib.RankError, "from 0 to 1.*got 2.0"),
        (lambda: ttlib.decompose(np.ones((4, 6)), eps="x"), ttlib.RankError, "got 'x'"),
        (
            lambda: ttlib.decompose(np.ones((4, 6)), driver="svdd"),
            ValueError,
            "'svdd'.*'auto', 'lapack', 'qr', 'gram', 'sketch'",
        ),
    ],
)
def test_bad_input_gets_the_fact_the_value_and_a_remedy(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_strict_arrays_stay_strict():
    tt = ttlib.decompose(array_api_strict.asarray([[1.0, 2.0], [3.0, 4.0]]), eps=1e-3)
    assert isinstance(tt.to_matrix(2, 2), array_api_strict._array_object.Array)

"""Arithmetic, contractions, indexing and canonical forms of tensor trains, with numpy on dense arrays as the oracle."""

import operator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttlib
from tests.core.strategies import shapes
from ttlib.testing import assert_tt_close, tensor_trains

pairs = shapes.flatmap(lambda shape: st.tuples(tensor_trains(shape=shape), tensor_trains(shape=shape)))


def close(actual, expected, scale=None):
    expected = np.asarray(expected)
    size = np.abs(expected).max(initial=0.0) if scale is None else scale
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-10, atol=1e-12 * size)


@given(pairs)
def test_sums_differences_and_products_are_those_of_the_dense_tensors(pair):
    a, b = pair
    x, y = a.to_tensor(), b.to_tensor()
    scale = np.abs(x).max() + np.abs(y).max()
    close((a + b).to_tensor(), x + y, scale)
    close((a - b).to_tensor(), x - y, scale)
    close((a * b).to_tensor(), x * y, np.abs(x).max() * np.abs(y).max())
    assert (a + b).ranks[1:-1] == tuple(p + q for p, q in zip(a.ranks[1:-1], b.ranks[1:-1], strict=True))
    assert (a * b).ranks == tuple(p * q for p, q in zip(a.ranks, b.ranks, strict=True))


@given(pairs)
def test_inner_products_and_norms_are_those_of_the_dense_tensors(pair):
    a, b = pair
    x, y = a.to_tensor().ravel(), b.to_tensor().ravel()
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    close(a.dot(b), x @ y, scale)
    close(a @ b, x @ y, scale)
    close(a.norm(), np.linalg.norm(x))
    close(np.exp(a.log_norm()), np.linalg.norm(x))


def test_inner_products_of_complex_trains_conjugate_the_left_one(asarray):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((3, 4, 2)) + 1j * rng.standard_normal((3, 4, 2)) for _ in range(2))
    a, b = ttlib.decompose(asarray(x)), ttlib.decompose(asarray(y))
    close(complex(a.dot(b)), np.vdot(x, y))
    close(complex(a @ b), np.sum(x * y))
    close(float(a.norm()), np.linalg.norm(x))
    close(np.asarray(a.conj().to_tensor()), x.conj())


@pytest.mark.parametrize(
    ("operation", "number"),
    [
        (operator.mul, 3),
        (operator.mul, np.float64(-0.5)),
        (operator.mul, np.asarray(2.0)),
        (operator.truediv, 4.0),
        (operator.add, 2.5),
        (operator.sub, 1),
    ],
)
def test_numbers_act_as_on_the_dense_tensor_and_leave_the_dtype(operation, number):
    tt = ttlib.random((3, 4, 2), ranks=2, seed=0, like=np.zeros(1, dtype=np.float32))
    result = operation(tt, number)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.to_tensor(), operation(tt.to_tensor(), float(number)), rtol=2e-5, atol=1e-5)


def test_numbers_may_stand_on_the_left():
    tt = ttlib.random((3, 4, 2), ranks=2, seed=0)
    for result, expected in (
        (2 * tt, 2 * tt.to_tensor()),
        (np.float64(2) * tt, 2 * tt.to_tensor()),
        (np.asarray(2.0) * tt, 2 * tt.to_tensor()),
        (1 - tt, 1 - tt.to_tensor()),
        (1 + tt, 1 + tt.to_tensor()),
        (-tt, -tt.to_tensor()),
    ):
        close(result.to_tensor(), expected)
    on_torch = tt.to(like=torch.zeros(1, dtype=torch.float64))
    close((torch.tensor(2.0) * on_torch).to_tensor(), 2 * tt.to_tensor())


def test_a_complex_number_makes_a_real_train_complex(asarray):
    tt = ttlib.decompose(asarray(np.arange(6.0).reshape(2, 3)))
    assert str((tt * 2j).dtype).endswith("complex128")
    close(np.asarray((tt * 2j).to_tensor()), np.arange(6.0).reshape(2, 3) * 2j)
    close(np.asarray((tt + 1j).to_tensor()), np.arange(6.0).reshape(2, 3) + 1j, 6)
    close(np.asarray((tt / 2j).to_tensor()), np.arange(6.0).reshape(2, 3) / 2j)


@given(tensor_trains(), st.data())
def test_indexing_is_that_of_numpy(tt, data):
    dense = tt.to_tensor()
    picks = []
    for mode in tt.shape:
        if data.draw(st.booleans()):
            picks.append(data.draw(st.integers(-mode, mode - 1)))
        else:
            start = data.draw(st.integers(0, mode - 1))
            picks.append(slice(start, data.draw(st.integers(start + 1, mode)), data.draw(st.integers(1, 2))))
    found = tt[tuple(picks)]
    values = found.to_tensor() if isinstance(found, ttlib.TensorTrain) else found
    expected = dense[tuple(picks)]
    assert np.shape(values) == np.shape(expected)
    close(values, expected, np.abs(dense).max())


def test_slices_may_reach_beyond_the_end(asarray):
    tt = ttlib.decompose(asarray(np.arange(12.0).reshape(3, 4)))
    close(np.asarray(tt[1:100, -100:2].to_tensor()), np.arange(12.0).reshape(3, 4)[1:, :2], 11)


def test_missing_modes_and_an_ellipsis_are_full_slices():
    tt = ttlib.random((3, 4, 5), ranks=2, seed=0)
    dense = tt.to_tensor()
    close(tt[1].to_tensor(), dense[1])
    close(tt[..., 2].to_tensor(), dense[..., 2])
    close(tt[1, ..., 2].to_tensor(), dense[1, ..., 2])
    close(tt[...].to_tensor(), dense)
    close(tt[np.int64(1), 2, 3], dense[1, 2, 3])


@given(tensor_trains(), st.data())
def test_sums_over_modes_are_those_of_numpy(tt, data):
    axes = data.draw(st.sets(st.integers(0, tt.order - 1)))
    dense = tt.to_tensor()
    found = tt.sum(axis=tuple(axes))
    values = found.to_tensor() if isinstance(found, ttlib.TensorTrain) else found
    close(values, dense.sum(axis=tuple(axes)), np.abs(dense).sum())
    close(tt.sum(), dense.sum(), np.abs(dense).sum())


@given(tensor_trains(), st.integers(0, 2**31))
def test_elements_are_those_of_the_dense_tensor(tt, seed):
    indices = np.random.default_rng(seed).integers(-np.asarray(tt.shape), tt.shape, size=(9, tt.order))
    dense = tt.to_tensor()
    close(tt.elements(indices), dense[tuple(indices.T)], np.abs(dense).max())


def test_elements_take_indices_of_their_library(asarray):
    tt = ttlib.decompose(asarray(np.arange(12.0).reshape(3, 4)))
    indices = asarray(np.array([[0, 1], [2, -1]]))
    close(np.asarray(tt.elements(indices)), [1.0, 11.0])
    close(np.asarray(tt.elements([[0, 1], [2, -1]])), [1.0, 11.0])


@given(tensor_trains(), tensor_trains())
def test_the_kronecker_product_is_the_outer_product(a, b):
    expected = np.multiply.outer(a.to_tensor(), b.to_tensor())
    close(a.kron(b).to_tensor(), expected)
    close(a.kron(b).to_matrix(expected.size, 1)[:, 0], np.kron(a.to_tensor().ravel(), b.to_tensor().ravel()))


@given(tensor_trains())
def test_transposing_reverses_the_modes(tt):
    close(tt.T.to_tensor(), tt.to_tensor().T)


@given(tensor_trains(), st.data())
def test_the_mixed_canonical_form_is_orthogonal_around_its_centre_and_the_same_tensor(tt, data):
    centre = data.draw(st.integers(0, tt.order - 1))
    form = tt.orthogonal(centre)
    close(form.to_tensor(), tt.to_tensor(), np.abs(tt.to_tensor()).max())
    assert all(ours <= theirs for ours, theirs in zip(form.ranks, tt.ranks, strict=True))
    for k, core in enumerate(form.cores):
        if k < centre:
            unfolded = core.reshape(-1, core.shape[2])
            np.testing.assert_allclose(unfolded.T @ unfolded, np.eye(core.shape[2]), atol=1e-13)
        if k > centre:
            unfolded = core.reshape(core.shape[0], -1)
            np.testing.assert_allclose(unfolded @ unfolded.T, np.eye(core.shape[0]), atol=1e-13)
    close(np.linalg.norm(form.cores[centre]), tt.norm())


def test_left_and_right_orthogonal_forms_put_the_norm_at_the_ends(asarray):
    tt = ttlib.decompose(asarray(np.random.default_rng(0).standard_normal((3, 4, 5))))
    for form, centre in ((tt.left_orthogonal(), -1), (tt.right_orthogonal(), 0), (tt.orthogonal(-2), 1)):
        close(np.linalg.norm(np.asarray(form.cores[centre])), float(tt.norm()))


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.5, 2.0, 3.0, 7.0, 1e100])
def test_the_norm_is_the_same_when_autograd_follows(scale):
    tt = (scale * ttlib.random((3, 4, 5), ranks=2, seed=0)).to(like=torch.zeros(1, dtype=torch.float64))
    traced = ttlib.TensorTrain([core.clone().requires_grad_() for core in tt.cores])
    assert float(traced.norm().detach()) == pytest.approx(float(tt.norm()), rel=1e-12)


def test_the_norm_of_a_small_difference_keeps_its_digits():
    a = ttlib.random((4, 5, 6, 4), ranks=4, seed=0)
    nudge = ttlib.random((4, 5, 6, 4), ranks=1, seed=1)
    nudge = nudge * (1e-12 / nudge.norm())
    assert float((a + nudge - a).norm()) == pytest.approx(1e-12, rel=0.05)


def test_trains_beyond_the_range_of_doubles_have_a_logarithmic_norm_and_can_be_rounded():
    ones = ttlib.ones((10,) * 1000)
    assert ones.log_norm() == pytest.approx(500 * np.log(10), rel=1e-14)
    twice = (ones + ones).round(eps=1e-10)
    assert set(twice.ranks) == {1}
    assert twice.log_norm() == pytest.approx(500 * np.log(10) + np.log(2), rel=1e-14)
    assert twice[(3,) * 1000] == pytest.approx(2.0, rel=1e-9)
    tiny = ttlib.rank_one([np.full(3, 1e-200)] * 5)
    assert tiny.log_norm() == pytest.approx(5 * np.log(1e-200 * 3**0.5), rel=1e-14)
    assert ttlib.zeros((3, 4)).log_norm() == -np.inf
    with pytest.raises(ttlib.NonFiniteError, match=r"2\*\*\d+, is beyond the range of float64.*round\(\)"):
        ones.left_orthogonal()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_computes_in_single_and_comes_back(dtype):
    exact = ttlib.random((4, 5, 6), ranks=3, seed=0)
    half = exact.to(like=torch.zeros(1)).to(dtype=dtype)
    unit = torch.finfo(half.dtype).eps
    assert float(half.norm()) == pytest.approx(float(exact.norm()), rel=4 * unit)
    assert half.norm().dtype == torch.float32
    for result in (half + half, half * half, half.round(ranks=2), half.left_orthogonal(), half[1], half.sum(axis=0)):
        assert result.dtype == half.dtype
    assert_tt_close((half + half).round(eps=1e-3), 2 * half, rtol=4 * unit)


def test_conversion_between_libraries_dtypes_and_back_loses_nothing():
    tt = ttlib.random((3, 4), ranks=2, seed=0)
    back = tt.to(like=torch.zeros(1, dtype=torch.float64)).to(like=np.zeros(1))
    assert all(np.array_equal(a, b) for a, b in zip(tt.cores, back.cores, strict=True))
    assert tt.to(dtype="float32").dtype == np.float32
    assert tt.to(dtype=torch.complex64).dtype == np.complex64
    assert tt.to(like=torch.zeros(1), dtype="bfloat16").dtype == torch.bfloat16
    assert tt.to(like=torch.zeros(1), device="cpu").device == torch.device("cpu")
    assert tt.to().cores[0] is tt.cores[0]


A = ttlib.random((3, 4), ranks=2, seed=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: A + ttlib.ones((3, 5)), ttlib.ShapeError, r"\+ needs equal modes, got \(3, 4\) and \(3, 5\)"),
        (lambda: A * ttlib.ones((4, 3)), ttlib.ShapeError, "needs equal modes"),
        (lambda: A.dot(ttlib.ones((3, 4, 1))), ttlib.ShapeError, "dot needs equal modes"),
        (lambda: A + ttlib.ones((3, 4), like=np.zeros(1, np.float32)), ttlib.BackendError, r"float64.*float32.*\.to\("),
        (
            lambda: A - ttlib.ones((3, 4), like=torch.zeros(1)),
            ttlib.BackendError,
            "numpy float64 on cpu and torch float32",
        ),
        (lambda: A + ttlib.eye((3,)), ttlib.BackendError, "two values of TensorTrain, got TTMatrix"),
        (lambda: A.kron(3), ttlib.BackendError, "got int"),
        (lambda: A / 0, ZeroDivisionError, "division of a TensorTrain by zero"),
        (lambda: A + "x", TypeError, "unsupported operand"),
        (lambda: A * [1, 2], TypeError, "can't multiply sequence"),
        (lambda: A / A, TypeError, "unsupported operand"),
        (lambda: A @ np.ones(3), TypeError, "'TensorTrain' does not support ufuncs"),
        (lambda: A[0, 0, 0], ttlib.ShapeError, "too many parts for 2 modes"),
        (lambda: A[..., ...], ttlib.ShapeError, "too many parts"),
        (lambda: A[3, 0], ttlib.ShapeError, "index 3 is out of range for mode 0, which has 3 entries"),
        (lambda: A[0, -5], ttlib.ShapeError, "index -5 is out of range for mode 1"),
        (lambda: A[1:1], ttlib.ShapeError, "slice .* of mode 0.*is empty"),
        (lambda: A[::-1], ttlib.ShapeError, "runs backwards"),
        (lambda: A[0.5], ttlib.BackendError, "indexed by 0.5.*elements"),
        (lambda: A[True], ttlib.BackendError, "indexed by True"),
        (lambda: A[None], ttlib.BackendError, "indexed by None"),
        (lambda: A.elements([[0, 4]]), ttlib.ShapeError, "index 4 in row 0 is out of range for mode 1"),
        (lambda: A.elements([0, 1]), ttlib.ShapeError, r"must have shape \(B, 2\).*got \(2,\)"),
        (lambda: A.elements([[0.0, 1.0]]), ttlib.BackendError, "must be integers, got dtype float64"),
        (lambda: A.sum(axis=2), ttlib.ShapeError, "axis 2 is out of range for 2 modes"),
        (lambda: A.sum(axis=(0, -2)), ttlib.ShapeError, "names a mode twice"),
        (lambda: A.sum(axis=0.5), ttlib.ShapeError, "axis must be an integer"),
        (lambda: A.orthogonal(2), ttlib.ShapeError, "centre 2 is out of range for 2 cores"),
        (lambda: A.to(dtype="int32"), ttlib.BackendError, "dtype 'int32' is not one.*float64"),
        (lambda: A.to(dtype="bfloat16"), ttlib.BackendError, "numpy and ttlib share"),
        (lambda: (A * 1j).to(dtype="float64"), ttlib.BackendError, "would drop the imaginary parts"),
    ],
)
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["norm", "log_norm", "round", "left_orthogonal", "singular_values"])
def test_cores_that_are_not_finite_are_refused_before_any_factorisation(method, value):
    core = np.ones((1, 5, 1))
    core[0, 3, 0] = value
    tt = ttlib.TensorTrain((np.ones((1, 4, 1)), core))
    with pytest.raises(ttlib.NonFiniteError, match=r"core 1 .*1 non-finite value.*first at \(0, 3, 0\)"):
        getattr(tt, method)()

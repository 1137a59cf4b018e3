"""Corner cases of TT-SVD on which other libraries crash, hang or answer wrongly: each is right here, or refused."""

import math
import warnings

import numpy as np
import pytest
import torch

import ttlib
from tests.core.strategies import norm

SHAPE = (4, 5, 6, 7)
LIBRARIES = {"numpy": np.array, "torch": lambda values: torch.from_numpy(np.array(values))}


@pytest.fixture(params=LIBRARIES)
def array(request):
    """Make an array of numpy or torch from a numpy array."""
    return LIBRARIES[request.param]


def gaussian(shape=SHAPE, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def graded(shape=SHAPE, seed=0, dtype="float64", decay=2.0):
    """A tensor whose unfoldings have falling singular values."""
    values = gaussian(shape, seed, "complex128" if np.dtype(dtype).kind == "c" else "float64")
    for axis, mode in enumerate(shape):
        weights = (1.0 + np.arange(mode)) ** -decay
        values = values * weights.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return (values / np.abs(values).max()).astype(dtype)


def low_rank(shape=SHAPE, rank=2, seed=0):
    rng = np.random.default_rng(seed)
    result = rng.standard_normal((shape[0], rank))
    for mode in shape[1:-1]:
        result = np.einsum("...r,rns->...ns", result, rng.standard_normal((rank, mode, rank)))
    return result @ rng.standard_normal((rank, shape[-1]))


def dense(tt):
    return np.asarray(tt.to_tensor())


def relative_error(tt, tensor):
    """Measured in double precision and on a scale where squares neither overflow nor vanish."""
    wide = np.result_type(tensor.dtype, np.float64)
    scale = max(np.abs(tensor.real).max(), np.abs(tensor.imag).max())
    ours, given = dense(tt).astype(wide) / scale, tensor.astype(wide) / scale
    return norm(ours - given) / norm(given)


def dtype_of(tt):
    return str(tt.dtype).removeprefix("torch.")


FULL = (1, 4, 20, 7, 1)


# Zero and exactly low-rank data


@pytest.mark.parametrize("how", [{"ranks": 2}, {"eps": 1e-6}, {"eps": 0.0}, {}], ids=str)
def test_a_zero_tensor_has_ranks_one(array, how):
    tt, report = ttlib.decompose(array(np.zeros(SHAPE)), return_report=True, **how)
    assert tt.ranks == (1, 1, 1, 1, 1)
    assert not dense(tt).any()
    assert report.relative_error == 0.0
    assert report.tolerance_met is (True if "eps" in how else None)


@pytest.mark.parametrize("how", [{"eps": 1e-6}, {"ranks": 5}, {"ranks": 5, "eps": 1e-6}, {"ranks": 1000}, {}], ids=str)
def test_a_tensor_of_rank_two_gets_ranks_two(array, how):
    tensor = low_rank()
    tt = ttlib.decompose(array(tensor), **how)
    assert tt.ranks == (1, 2, 2, 2, 1)
    assert relative_error(tt, tensor) < 1e-13
    assert dtype_of(tt) == "float64"


# How much to keep


@pytest.mark.parametrize(
    ("how", "ranks"),
    [
        ({}, FULL),
        ({"eps": 0.0}, FULL),
        ({"eps": 0}, FULL),
        ({"ranks": 1000}, FULL),
        ({"ranks": [50, 50, 50]}, FULL),
        ({"ranks": [1, 50, 50, 50, 1]}, FULL),
    ],
    ids=str,
)
def test_nothing_is_lost_where_nothing_need_be(array, how, ranks):
    tensor = gaussian()
    tt = ttlib.decompose(array(tensor), **how)
    assert tt.ranks == ranks
    assert relative_error(tt, tensor) < 1e-14
    assert dtype_of(tt) == "float64"


@pytest.mark.parametrize("ranks", [[3, 8, 4], (1, 3, 8, 4, 1), np.array([3, 8, 4])], ids=str)
def test_every_bond_can_have_its_own_rank(array, ranks):
    tensor = gaussian()
    tt = ttlib.decompose(array(tensor), ranks=ranks)
    assert tt.ranks == (1, 3, 8, 4, 1)
    assert 0 < relative_error(tt, tensor) < 1


def test_a_rank_cap_and_a_tolerance_hold_together(array):
    tensor = graded()
    tt, report = ttlib.decompose(array(tensor), ranks=4, eps=0.1, return_report=True)
    assert max(tt.ranks) <= 4
    assert relative_error(tt, tensor) <= 0.1
    assert report.tolerance_met
    tight, report = ttlib.decompose(array(tensor), ranks=2, eps=1e-9, return_report=True)
    assert max(tight.ranks) == 2
    assert not report.tolerance_met


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eps", [0.3, 1e-1, 1e-3, 1e-6])
def test_the_tolerance_is_promised(array, seed, eps):
    tensor = graded(seed=seed, decay=1.0 + seed / 2)
    tt, report = ttlib.decompose(array(tensor), eps=eps, return_report=True)
    error = relative_error(tt, tensor)
    assert error <= eps * (1 + 4e-12)
    assert report.relative_error == pytest.approx(error, rel=0.01)
    assert report.tolerance_met
    assert tt.parameters < ttlib.count_parameters(SHAPE, ranks=1000)


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32", "complex64"])
@pytest.mark.parametrize("make", [gaussian, graded])
def test_rank_three_is_quasi_optimal(array, dtype, make):
    """Oseledets 2011, Theorem 2.2, against the spectra of the unfoldings of the tensor itself."""
    tensor = make(dtype=dtype)
    tt = ttlib.decompose(array(tensor), ranks=3)
    assert tt.ranks == (1, 3, 3, 3, 1)
    assert dtype_of(tt) == dtype
    wide = tensor.astype(np.result_type(dtype, np.float64))
    lost = sum(
        np.sum(np.linalg.svd(wide.reshape(math.prod(SHAPE[:k]), -1), compute_uv=False)[3:] ** 2) for k in range(1, 4)
    )
    bound = math.sqrt(lost) / norm(wide)
    assert relative_error(tt, tensor) <= bound * (1 + 1e-9) + 10 * float(np.finfo(dtype).eps)


# Shapes


@pytest.mark.parametrize(
    ("shape", "ranks"),
    [
        ((1, 4, 1, 5, 1), (1, 1, 4, 4, 1, 1)),
        ((7,), (1, 1)),
        ((1,), (1, 1)),
        ((6, 8), (1, 6, 1)),
        ((8, 6), (1, 6, 1)),
        ((1, 1, 1), (1, 1, 1, 1)),
        ((1, 5), (1, 1, 1)),
        ((5, 1), (1, 1, 1)),
        ((3, 4, 5), (1, 3, 5, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("how", [{}, {"eps": 1e-12}, {"ranks": 100}], ids=str)
def test_small_and_degenerate_shapes(array, shape, ranks, how):
    tensor = gaussian(shape)
    tt = ttlib.decompose(array(tensor), **how)
    assert tt.shape == shape
    assert tt.ranks == ranks
    assert relative_error(tt, tensor) < 1e-13


def test_fourteen_modes_of_two_at_rank_one(array):
    shape = (2,) * 14
    rng = np.random.default_rng(0)
    tensor = np.ones(())
    for _ in shape:
        tensor = np.multiply.outer(tensor, rng.standard_normal(2))
    tt = ttlib.decompose(array(tensor), ranks=1)
    assert tt.ranks == (1,) * 15
    assert relative_error(tt, tensor) < 1e-13
    free = ttlib.decompose(array(tensor), eps=1e-10)
    assert free.ranks == (1,) * 15


def test_a_flat_array_takes_the_shape_asked(array):
    tensor = gaussian()
    tt = ttlib.decompose(array(tensor.reshape(840)), shape=SHAPE)
    assert tt.shape == SHAPE
    assert relative_error(tt, tensor) < 1e-14


# Scales and dtypes


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("how", [{"eps": 1e-3}, {"ranks": 1000}, {"ranks": 3}, {}], ids=str)
def test_dtypes_stay(array, dtype, how):
    tensor = graded(dtype=dtype)
    tt, report = ttlib.decompose(array(tensor), return_report=True, **how)
    assert dtype_of(tt) == dtype
    error = relative_error(tt, tensor)
    floor = 64 * float(np.finfo(dtype).eps)
    assert error <= how.get("eps", 1 if how == {"ranks": 3} else 0) + floor
    assert report.relative_error == pytest.approx(error, rel=0.01, abs=floor)


@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [
        ("float32", 99),
        ("float32", -99),
        ("float32", 120),
        ("float32", -120),
        ("complex64", 99),
        ("complex64", -99),
        ("float64", 664),
        ("float64", -664),
        ("float64", 996),
        ("float64", -996),
        ("float64", 1018),
        ("complex128", 664),
        ("complex128", 1018),
        ("complex128", -996),
    ],
)
@pytest.mark.parametrize("how", [{"eps": 1e-3}, {"ranks": 1000}, {"ranks": 3}], ids=str)
def test_the_scale_changes_nothing_but_the_scale(array, dtype, exponent, how):
    """Powers of two near 1e+-30, 1e+-200 and 1e+-300 are exact, so every rank must be that of the unscaled tensor.

    Decay of the entries is mild: the smallest of the scaled ones stays a normal number.
    """
    tensor = graded(dtype=dtype, decay=0.5)
    factor = np.ldexp(tensor.real.dtype.type(1), exponent)
    scaled = tensor * factor
    plain, expected = ttlib.decompose(array(tensor), return_report=True, **how)
    tt, report = ttlib.decompose(array(scaled), return_report=True, **how)
    assert tt.ranks == plain.ranks
    assert dtype_of(tt) == dtype
    assert report.relative_error == pytest.approx(expected.relative_error, rel=1e-6, abs=1e-12)
    assert relative_error(tt, scaled) == pytest.approx(
        expected.relative_error, rel=1e-3, abs=64 * float(np.finfo(dtype).eps)
    )
    assert tt.log_norm() == pytest.approx(plain.log_norm() + exponent * math.log(2), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_entries_at_the_very_end_of_the_range_come_back(array, dtype):
    """Their singular values lie beyond the range; the entries do not."""
    tensor = gaussian((4, 5, 6), dtype=dtype)
    peak = max(np.abs(tensor.real).max(), np.abs(tensor.imag).max())
    tensor = (tensor / peak * (0.99 * float(np.finfo(dtype).max))).astype(dtype)
    tt, report = ttlib.decompose(array(tensor), return_report=True)
    assert report.relative_error == 0.0
    assert relative_error(tt, tensor) < 64 * float(np.finfo(dtype).eps)


def test_an_orthogonal_form_beyond_the_range_is_refused_without_a_warning(array):
    tensor = gaussian((4, 5, 6))
    tt = ttlib.decompose(array(tensor / np.abs(tensor).max() * 1.7e308))
    with pytest.raises(ttlib.NonFiniteError, match=r"norm, about 2\*\*102\d, is beyond the range of float64"):
        tt.orthogonal(1)


@pytest.mark.parametrize("how", [{}, {"eps": 1e-3}, {"ranks": 2}], ids=str)
@pytest.mark.parametrize(("dtype", "peak"), [("float64", 1e-310), ("float64", 3e-322), ("float32", 1e-42)])
def test_subnormal_input_is_decomposed(array, dtype, peak, how):
    tensor = (gaussian((4, 5, 6)) * peak).astype(dtype)
    smallest = float(np.finfo(dtype).smallest_subnormal)
    wide = np.ldexp(tensor.astype(np.float64), 1000 if dtype == "float64" else 100)
    expected, report = ttlib.decompose(wide, return_report=True, **how)
    tt, ours = ttlib.decompose(array(tensor), return_report=True, **how)
    assert ours.relative_error == pytest.approx(report.relative_error, rel=1e-4, abs=1e-6)
    close = np.ldexp(expected.to_tensor(), -1000 if dtype == "float64" else -100)
    np.testing.assert_allclose(dense(tt).astype(np.float64), close, rtol=1e-5, atol=2 * smallest)


def test_an_orthogonal_form_below_the_range_is_refused_or_exact(array):
    """||A|| is 1e-480: no core can hold it, and a train of zeros is another tensor."""
    tt = ttlib.TensorTrain([array(np.full((1, 2, 1), 1e-120)) for _ in range(4)])
    expected = 4 * math.log(math.sqrt(2) * 1e-120)
    assert tt.log_norm() == pytest.approx(expected)
    assert tt.round().log_norm() == pytest.approx(expected)
    try:
        swept = tt.orthogonal(1)
    except ttlib.NonFiniteError as refusal:
        assert "range" in str(refusal)  # noqa: PT017  # either outcome is sound
    else:
        assert swept.log_norm() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_calculated_in_single(dtype):
    tensor = torch.from_numpy(graded(SHAPE)).to(getattr(torch, dtype))
    tt, report = ttlib.decompose(tensor, eps=0.05, return_report=True)
    assert tt.dtype == tensor.dtype
    error = float((tt.to_tensor().double() - tensor.double()).norm() / tensor.double().norm())
    assert error <= 0.05 + 4 * torch.finfo(tensor.dtype).eps
    assert report.tolerance_met
    exact = ttlib.decompose(tensor)
    error = float((exact.to_tensor().double() - tensor.double()).norm() / tensor.double().norm())
    assert error <= 8 * torch.finfo(tensor.dtype).eps


def test_half_precision_in_numpy_is_calculated_in_single():
    tensor = graded(dtype="float16")
    tt = ttlib.decompose(tensor, eps=0.05)
    assert tt.dtype == np.float16
    assert relative_error(tt, tensor) <= 0.05 + 4e-3


def test_an_orthogonal_form_in_half_precision_holds_the_norm_or_refuses(array):
    """The norm is 524,288, above the largest float16."""
    tt = ttlib.ones((4, 64, 64, 64), like=array(np.zeros(1, np.float16))) * 512
    assert float(tt.norm()) == pytest.approx(524_288, rel=1e-3)
    with pytest.raises(ttlib.NonFiniteError, match="beyond the range of float16"):
        tt.orthogonal(0)
    assert np.isfinite(float(tt.round().norm()))


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8", "int32"])
def test_integers_become_double_precision(array, dtype):
    tensor = np.arange(24).reshape(2, 3, 4).astype(dtype)
    tt = ttlib.decompose(array(tensor))
    assert dtype_of(tt) == "float64"
    assert tt.ranks == (1, 2, 2, 1)
    np.testing.assert_allclose(dense(tt), tensor, atol=1e-13)


@pytest.mark.parametrize("make", [lambda x: x.astype(np.longdouble), lambda x: x.astype(np.clongdouble)])
def test_extended_precision_is_right_or_refused_by_name(make):
    tensor = make(gaussian((3, 4)))
    with pytest.raises(ttlib.BackendError, match=tensor.dtype.name):
        ttlib.decompose(tensor)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eighth_precision_is_refused_by_name(dtype):
    with pytest.raises(ttlib.BackendError, match=str(dtype).removeprefix("torch.")):
        ttlib.decompose(torch.ones(3, 4).to(dtype))


def test_half_precision_complex_numbers_are_refused_by_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on making such a tensor
        tensor = torch.ones(3, 4, dtype=torch.complex32)
    with pytest.raises(ttlib.BackendError, match="complex32"):
        ttlib.decompose(tensor)


def test_foreign_byte_order_is_read():
    tensor = gaussian((3, 4, 5))
    tt = ttlib.decompose(tensor.astype(">f8"))
    np.testing.assert_allclose(tt.to_tensor(), tensor, atol=1e-13)
    moved = tt.to(like=torch.zeros(1, dtype=torch.float64))
    np.testing.assert_allclose(dense(moved), tensor, atol=1e-13)


# Memory


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::2, :, 1:, ::3],
        lambda x: x.swapaxes(0, 3).swapaxes(1, 2),
        lambda x: x.swapaxes(0, 2)[:, 1],
        lambda x: x[1],
    ],
    ids=["strided", "reversed axes", "slice of moved axes", "offset"],
)
def test_views_give_what_their_copies_give(array, view):
    given = view(array(gaussian()))
    copied = array(np.asarray(given).copy())
    assert copied.shape == given.shape
    ours, theirs = ttlib.decompose(given, eps=0.3), ttlib.decompose(copied, eps=0.3)
    assert ours.ranks == theirs.ranks
    np.testing.assert_allclose(dense(ours), dense(theirs), atol=1e-13)


def test_expanded_tensors_are_read():
    row = gaussian((1, 5, 6))
    expected = np.broadcast_to(row, (4, 5, 6))
    for given in (expected, torch.from_numpy(row).expand(4, 5, 6)):
        tt = ttlib.decompose(given)
        assert tt.ranks[1] == 1
        np.testing.assert_allclose(dense(tt), expected, atol=1e-13)


def test_fortran_order_and_negative_strides_are_read():
    tensor = gaussian()
    for given in (np.asfortranarray(tensor), tensor[::-1, :, ::-1].copy()[::-1, :, ::-1]):
        np.testing.assert_allclose(dense(ttlib.decompose(given)), tensor, atol=1e-13)


def test_read_only_input_is_read():
    tensor = gaussian()
    tensor.flags.writeable = False
    assert relative_error(ttlib.decompose(tensor), tensor) < 1e-14


def test_lazily_conjugated_torch_tensors_are_read():
    tensor = torch.from_numpy(gaussian((3, 4, 5), dtype="complex128")).conj()
    assert tensor.is_conj()
    tt = ttlib.decompose(tensor)
    np.testing.assert_allclose(dense(tt), tensor.resolve_conj().numpy(), atol=1e-13)
    np.testing.assert_allclose(dense(tt.conj().to(like=np.zeros(1, complex))), tensor.conj().numpy(), atol=1e-13)
    negated = tensor.imag
    assert negated.is_neg()
    np.testing.assert_allclose(dense(ttlib.decompose(negated)), negated.resolve_neg().numpy(), atol=1e-13)


# Rounding


@pytest.mark.parametrize("how", [{"eps": 1e-8}, {"ranks": 2}, {}], ids=str)
def test_a_train_added_to_itself_rounds_back_to_its_ranks(array, how):
    tensor = low_rank()
    tt = ttlib.decompose(array(tensor), ranks=2)
    doubled, report = (tt + tt).round(return_report=True, **how)
    assert (tt + tt).ranks == (1, 4, 4, 4, 1)
    assert doubled.ranks == (1, 2, 2, 2, 1)
    assert relative_error(doubled, 2 * tensor) < 1e-13
    assert report.relative_error < 1e-13


@pytest.mark.parametrize("how", [{"eps": 1e-8}, {"ranks": 3}, {}], ids=str)
def test_a_zero_train_rounds_to_ranks_one(array, how):
    like = array(np.zeros(1))
    zero = ttlib.random(SHAPE, ranks=3, seed=0, like=like) * 0.0
    rounded, report = zero.round(return_report=True, **how)
    assert rounded.ranks == (1, 1, 1, 1, 1)
    assert not dense(rounded).any()
    assert report.relative_error == 0.0


def test_a_train_less_itself_rounds_to_nothing(array):
    tt = ttlib.random(SHAPE, ranks=3, seed=0, like=array(np.zeros(1)))
    assert float((tt - tt).norm()) <= 1e-14 * float(tt.norm())


@pytest.mark.parametrize("big", [1e200, 1e-200])
def test_unbalanced_cores_have_an_inner_product(array, big):
    """Cores of 1e200 and 1e-200 make a tensor of ones."""
    cores = [array(np.full((1, 2, 1), big)), array(np.full((1, 3, 1), 1 / big))]
    tt = ttlib.TensorTrain(cores)
    assert float(tt.norm()) == pytest.approx(math.sqrt(6))
    assert float(tt.dot(tt)) == pytest.approx(6)
    assert tt.round().ranks == (1, 1, 1)
    np.testing.assert_allclose(dense(tt.round()), np.ones((2, 3)), rtol=1e-12)
    assert float(tt.sum()) == pytest.approx(6)
    assert float(tt @ tt) == pytest.approx(6)


def test_a_budget_is_spent_on_any_scale(array):
    tensor = graded()
    for scale in (1.0, 1e200, 1e-200):
        tt, report = ttlib.decompose(array(tensor * scale), parameters=100, return_report=True)
        assert tt.parameters <= 100
        assert tt.ranks == ttlib.decompose(tensor, parameters=100).ranks
        assert 0 < report.relative_error < 1
        assert ttlib.decompose(array(tensor * scale)).round(parameters=100).ranks == tt.ranks


# Gradients


def test_the_gradient_through_rank_two_is_that_of_finite_differences():
    tensor = torch.from_numpy(gaussian((4, 3, 5))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ttlib.decompose(x, ranks=2).to_tensor(), tensor)


def test_the_gradient_of_complex_tensors_is_that_of_finite_differences():
    tensor = torch.from_numpy(gaussian((3, 4, 2), dtype="complex128")).requires_grad_()
    call = lambda x: torch.view_as_real(ttlib.decompose(x, ranks=2).to_tensor())  # noqa: E731
    assert torch.autograd.gradcheck(call, tensor)


def with_spectrum(values, rows=5, cols=6):
    rng = np.random.default_rng(4)
    left = np.linalg.qr(rng.standard_normal((rows, len(values))))[0]
    right = np.linalg.qr(rng.standard_normal((cols, len(values))))[0]
    return torch.from_numpy(left * np.array(values) @ right.T)


@pytest.mark.parametrize("driver", ["auto", "lapack", "qr", "gram", "sketch"])
@pytest.mark.parametrize(
    ("values", "rank"),
    [([3.0, 3.0, 1.0, 1.0], 2), ([2.0, 2.0, 2.0, 0.5], 3), ([5.0, 1.0, 1.0, 1.0], 1), ([1.0, 1.0, 0.0, 0.0], 2)],
    ids=str,
)
def test_equal_singular_values_have_a_gradient_where_the_cut_is_not_between_them(driver, values, rank):
    matrix = with_spectrum(values).requires_grad_()
    weights = torch.from_numpy(gaussian((5, 6), seed=1))

    def value(x):
        return (weights * ttlib.decompose(x, ranks=rank, driver=driver).to_tensor()).sum()

    (gradient,) = torch.autograd.grad(value(matrix), matrix)
    assert torch.isfinite(gradient).all()
    step = 1e-6
    with torch.no_grad():
        for direction in (gaussian((5, 6), seed=2), gaussian((5, 6), seed=3)):
            move = step * torch.from_numpy(direction)
            difference = (value(matrix + move) - value(matrix - move)) / (2 * step)
            predicted = (gradient * torch.from_numpy(direction)).sum()
            assert float(predicted) == pytest.approx(float(difference), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("driver", ["auto", "lapack", "qr", "gram", "sketch"])
def test_a_cut_between_equal_singular_values_has_no_gradient_and_says_so(driver):
    matrix = with_spectrum([4.0, 3.0, 3.0, 1.0]).requires_grad_()
    with pytest.raises(ttlib.RankError, match=r"rank 2 cuts between two equal singular values \(0\.75 times"):
        ttlib.decompose(matrix, ranks=2, driver=driver)
    cut = ttlib.decompose(matrix.detach(), ranks=2, driver=driver)  # without a gradient there is nothing to refuse
    assert cut.ranks == (1, 2, 1)


@pytest.mark.parametrize("seed", range(20))
def test_the_norm_of_a_vanishing_difference_is_a_number_when_autograd_follows(seed):
    like = torch.zeros(1, dtype=torch.float64)
    cores = [core.requires_grad_() for core in ttlib.random((3, 4, 5), ranks=3, seed=seed, like=like).cores]
    tt = ttlib.TensorTrain(cores)
    difference = (tt + tt - 2 * tt).norm()
    assert torch.isfinite(difference)
    assert float(difference.detach()) <= 1e-7 * float(tt.norm().detach())


def test_the_norm_of_zero_has_the_gradient_that_torch_gives_it():
    cores = [torch.zeros(1, 3, 1, dtype=torch.float64, requires_grad=True), torch.ones(1, 2, 1, dtype=torch.float64)]
    (gradient,) = torch.autograd.grad(ttlib.TensorTrain(cores).norm(), cores[0])
    assert not gradient.any()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own
def test_forward_mode_derivatives_are_right_or_refused():
    """torch drops tangents where a tensor is detached: a derivative that is silently zero would be wrong."""
    from torch.autograd import forward_ad

    tensor, direction = torch.from_numpy(gaussian((4, 3, 5))), torch.from_numpy(gaussian((4, 3, 5), seed=1))
    with forward_ad.dual_level():
        try:
            result = ttlib.decompose(forward_ad.make_dual(tensor, direction), ranks=2).to_tensor()
        except ttlib.TTError:
            return
        tangent = forward_ad.unpack_dual(result).tangent
    step = 1e-6
    ahead, behind = (ttlib.decompose(tensor + s * direction, ranks=2).to_tensor() for s in (step, -step))
    assert tangent is not None, "the tangent was dropped without a word"
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("extra", [lambda x: 0 * x, lambda x: x**3], ids=["alone", "beside another term"])
def test_second_derivatives_are_right_or_refused(extra):
    """Only first derivatives are claimed; a second one must not come out wrong, or lack a part, without a word."""

    def slope(x):
        loss = ttlib.decompose(x, ranks=2).to_tensor().square().sum() + extra(x).sum()
        return torch.autograd.grad(loss, x, create_graph=True)[0]

    tensor, direction = torch.from_numpy(gaussian((3, 3))), torch.from_numpy(gaussian((3, 3), seed=1))
    point = tensor.clone().requires_grad_()
    first = slope(point)
    try:
        (second,) = torch.autograd.grad((first * direction).sum(), point)
    except (RuntimeError, ttlib.BackendError) as refusal:
        assert str(refusal)  # noqa: PT017
        return
    step = 1e-6
    ahead, behind = (slope((tensor + s * direction).requires_grad_()).detach() for s in (step, -step))
    torch.testing.assert_close(second, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transform", ["grad", "vmap"])
def test_functional_transforms_are_right_or_refused_by_name(transform):
    """torch.func wraps tensors so that no number can be read from them, which ranks and scales need."""
    tensor = torch.from_numpy(gaussian((3, 4)))

    def loss(x):
        return ttlib.decompose(x, ranks=2).to_tensor().square().sum()

    try:
        found = torch.func.grad(loss)(tensor) if transform == "grad" else torch.vmap(loss)(tensor[None])
    except (ttlib.BackendError, RuntimeError) as refusal:
        assert "torch.func" in str(refusal) or "vmap" in str(refusal)  # noqa: PT017
        return
    point = tensor.clone().requires_grad_()
    expected = torch.autograd.grad(loss(point), point)[0] if transform == "grad" else loss(tensor)[None]
    torch.testing.assert_close(found, expected)


# Trains of more entries than a double can count


def test_a_train_of_ten_to_the_400_entries_is_an_ordinary_value(array):
    shape, like = (10,) * 400, array(np.zeros(1))
    tt = ttlib.ones(shape, like=like)
    assert "ranks=(1, 1" in repr(tt)
    assert "row_shape=(10, 10" in repr(ttlib.eye(shape, like=like))
    assert tt.compression == math.inf
    assert tt.parameters == 4000
    assert tt.log_norm() == pytest.approx(200 * math.log(10))
    rounded, report = (tt + tt).round(eps=0.1, return_report=True)
    assert rounded.ranks == (1,) * 401
    assert report.compression == math.inf
    assert "4,000 parameters" in str(report)
    assert (tt + tt).round(compression=1e300).ranks == (1,) * 401
    assert (tt + tt).round(parameters=5000).ranks == (1,) * 401
    assert float(tt.elements(np.zeros((1, 400), int))[0]) == 1.0
    assert ttlib.random(shape, ranks=2, seed=0, like=like).order == 400
    scaled = ttlib.random_orthogonal(shape, ranks=2, seed=0, like=like)
    assert scaled.log_norm() == pytest.approx(200 * math.log(10))  # entries of root mean square 1


# Refusals


def poisoned(value):
    tensor = gaussian()
    tensor[1, 2, 3, 4] = value
    return tensor


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("how", [{"ranks": 3}, {"eps": 1e-3}, {"parameters": 100}, {}], ids=str)
def test_values_that_are_not_finite_are_refused_with_their_place(array, value, how):
    with pytest.raises(ttlib.NonFiniteError, match=r"1 non-finite value\(s\).*first at \(1, 2, 3, 4\)"):
        ttlib.decompose(array(poisoned(value)), **how)


@pytest.mark.parametrize("value", [complex(np.nan, 1), complex(0, np.inf)])
def test_complex_values_that_are_not_finite_are_refused(array, value):
    tensor = gaussian((3, 4), dtype="complex128")
    tensor[2, 1] = value
    with pytest.raises(ttlib.NonFiniteError, match=r"first at \(2, 1\)"):
        ttlib.decompose(array(tensor))


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"shape": (4, 5, 6, 8)}, ttlib.ShapeError, "holds 960 entries but the array holds 840"),
        ({"shape": (4, 5, -6, -7)}, ttlib.ShapeError, "mode 2 of shape.*got -6"),
        ({"ranks": 0}, ttlib.RankError, ">= 1, got 0"),
        ({"ranks": -1}, ttlib.RankError, ">= 1, got -1"),
        ({"ranks": [3, 0, 3]}, ttlib.RankError, ">= 1, got 0"),
        ({"ranks": [3, 3]}, ttlib.RankError, "has 2 entries.*3 inner bonds"),
        ({"ranks": 2.0}, ttlib.RankError, "got 2.0 of type float"),
        ({"ranks": None, "eps": -1}, ttlib.RankError, "from 0 to 1.*got -1"),
        ({"eps": math.nan}, ttlib.RankError, "from 0 to 1.*got nan"),
        ({"eps": 2}, ttlib.RankError, "from 0 to 1.*got 2"),
        ({"eps": math.inf}, ttlib.RankError, "from 0 to 1.*got inf"),
        ({"eps": True}, ttlib.RankError, "from 0 to 1.*got True"),
        ({"eps": np.True_}, ttlib.RankError, "from 0 to 1.*got (np.)?True_?"),
        ({"eps": 10**400}, ttlib.RankError, "from 0 to 1"),
        ({"eps": 1j}, ttlib.RankError, "from 0 to 1.*got 1j"),
        ({"parameters": 10, "ranks": 2}, ttlib.RankError, "not both"),
        ({"parameters": 10, "compression": 2.0}, ttlib.RankError, "not both"),
        ({"parameters": 21}, ttlib.RankError, "needs 22 parameters at ranks of 1, the budget is 21"),
        ({"parameters": 0}, ttlib.ShapeError, "parameters must be an integer >= 1, got 0"),
        ({"compression": 0}, ttlib.RankError, "compression must be a finite number above 0.*got 0"),
        ({"compression": math.nan}, ttlib.RankError, "got nan"),
        ({"compression": 1e-320}, ttlib.RankError, "compression"),
        ({"compression": 1j}, ttlib.RankError, "compression.*got 1j"),
        ({"driver": "svd"}, ttlib.UnknownDriverError, "'svd' does not exist"),
        ({"driver": ["qr"]}, ttlib.UnknownDriverError, r"\['qr'\] does not exist"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_options_that_cannot_be_are_refused(array, how, error, message):
    with pytest.raises(error, match=message):
        ttlib.decompose(array(gaussian()), **how)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.ones((3, 4), bool), ttlib.BackendError, "floating, complex or integer.*bool"),
        (np.ones(()), ttlib.ShapeError, "at least one mode"),
        (np.ones((4, 0, 6)), ttlib.ShapeError, r"\(4, 0, 6\) holds no entries"),
        (np.ones((0,)), ttlib.ShapeError, "holds no entries"),
    ],
    ids=["bool", "0-d", "empty mode", "empty vector"],
)
def test_arrays_that_cannot_be_are_refused(array, values, error, message):
    with pytest.raises(error, match=message):
        ttlib.decompose(array(values))


@pytest.mark.parametrize(
    "value", [None, 3.0, "abc", [[1.0, 2.0]], {"a": 1}, object()], ids=lambda value: type(value).__name__
)
def test_what_is_no_array_is_refused(value):
    with pytest.raises(ttlib.BackendError, match="expected arrays of one library"):
        ttlib.decompose(value)


@pytest.mark.parametrize("value", [None, 3, 3.5])
def test_what_is_no_batch_is_refused(value):
    with pytest.raises(ttlib.TTError, match="batch|sequence"):
        ttlib.decompose_batch(value)


def test_tensors_without_numbers_are_refused():
    with pytest.raises(ttlib.BackendError, match="meta"):
        ttlib.decompose(torch.empty(3, 4, device="meta"))
    with pytest.raises(ttlib.BackendError, match="sparse"):
        ttlib.decompose(torch.eye(3).to_sparse())


def test_masked_arrays_are_refused_because_a_mask_has_no_train():
    with pytest.raises(ttlib.BackendError, match="[Mm]asked"):
        ttlib.decompose(np.ma.masked_array(gaussian((3, 4)), mask=np.eye(3, 4, dtype=bool)))


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")  # numpy's own
def test_matrices_of_the_old_numpy_class_are_right_or_refused():
    """np.matrix is two-dimensional whatever is done to it."""
    given = np.matrix(gaussian((3, 4)))
    try:
        tt = ttlib.decompose(given, shape=(3, 2, 2))
    except ttlib.BackendError as refusal:
        assert "matrix" in str(refusal)  # noqa: PT017
        return
    np.testing.assert_allclose(dense(tt), np.asarray(given).reshape(3, 2, 2), atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("driver", ["auto", "lapack", "qr", "gram", "sketch"])
def test_a_matrix_on_which_lapack_does_not_converge_is_decomposed_all_the_same(monkeypatch, driver, dtype):
    def fails(*_, **__):
        msg = "did not converge"
        raise np.linalg.LinAlgError(msg)

    tensor = gaussian((6, 5, 4), dtype=dtype)
    expected = ttlib.decompose(tensor, eps=0.3)
    monkeypatch.setattr(np.linalg, "svd", fails)
    monkeypatch.setattr(np.linalg, "eigh", fails)
    tt = ttlib.decompose(tensor, eps=0.3, driver=driver)
    assert tt.dtype == tensor.dtype
    np.testing.assert_allclose(dense(tt), dense(expected), atol=100 * float(np.finfo(dtype).eps))

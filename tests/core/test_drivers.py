"""SVD drivers: each passes the public check, says what it did, and gives way where it cannot see."""

import array_api_strict
import numpy as np
import pytest
import torch

import ttlib
from tests.core.strategies import norm
from ttlib.linalg import DRIVERS, truncated_svd
from ttlib.testing import PartialSVD, TruncationRule, assert_tt_close, check_driver, tensor_trains, tt_matrices

LIKE = {
    "numpy float64": np.zeros(1),
    "numpy float32": np.zeros(1, np.float32),
    "numpy complex64": np.zeros(1, np.complex64),
    "torch float32": torch.zeros(1),
    "torch complex128": torch.zeros(1, dtype=torch.complex128),
    "strict float64": array_api_strict.zeros(1),
}


@pytest.mark.parametrize("like", LIKE)
@pytest.mark.parametrize("driver", DRIVERS)
def test_every_driver_is_sound(driver, like):
    check_driver(DRIVERS[driver], like=LIKE[like])


def numpy_svd(matrix, rule):
    u, values, vh = np.linalg.svd(matrix, full_matrices=False)
    return PartialSVD(u, values, values[..., :, None] * vh, "mine", "to see")


def broken(**changes):
    """The driver above with parts of its result replaced."""

    def driver(matrix, rule):
        found = numpy_svd(matrix, rule)
        parts = {name: getattr(found, name) for name in ("basis", "values", "remainder", "residual")}
        for name, change in changes.items():
            parts[name] = change(parts[name])
        return PartialSVD(driver="broken", reason="on purpose", **parts)

    return driver


def writing(matrix, rule):
    found = numpy_svd(matrix, rule)
    matrix *= 2
    return found


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (broken(basis=lambda u: u * 1.001), "basis is not orthonormal"),
        (broken(remainder=lambda r: r + 1e-3), "remainder is not the matrix in that basis"),
        (broken(values=lambda s: s[..., ::-1]), "not descending|not what it says it lost|keeps"),
        (broken(values=lambda s: -s), "not descending numbers >= 0"),
        (broken(values=lambda s: s * 0.5), "is not what it says it lost|above the tolerance"),
        (broken(values=lambda s: s + 1.0), "is not what it says it lost|keeps"),
        (broken(basis=lambda u: u[..., :1], remainder=lambda r: r[..., :1, :]), "holds 1 columns, the rule keeps"),
        (writing, "the input was written to"),
    ],
)
def test_the_check_finds_broken_drivers(driver, message):
    with pytest.raises(AssertionError, match=message):
        check_driver(driver)


def test_a_driver_of_ones_own_is_used_and_named():
    tensor = np.random.default_rng(0).standard_normal((4, 5, 6))
    tt, report = ttlib.decompose(tensor, driver=numpy_svd, return_report=True)
    assert report.driver == "mine"
    assert report.reasons == ("to see", "to see")
    assert_tt_close(tt, tensor)


def test_auto_takes_the_gram_matrix_where_that_can_see():
    tensor = np.random.default_rng(0).standard_normal((8, 9, 10))
    for options in ({"ranks": 3}, {"eps": 0.1}):
        assert ttlib.decompose(tensor, return_report=True, **options)[1].driver == "gram"
    assert ttlib.decompose(tensor, eps=1e-9, return_report=True)[1].driver == "qr"


def test_a_rank_that_gram_chose_is_kept():
    """It leaves room for the rounding of its eigenvalues: the rule, applied to them again, may keep one value less."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((12, 12)))[0] for _ in range(2))
    values = np.array([1.0] * 6 + [1e-3] * 6)
    matrix = (u * values) @ v
    for eps in (np.sqrt(5e-6 / np.sum(values**2)) * (1 + d) for d in (-1e-9, -1e-15, 0.0, 1e-15, 1e-9)):
        tt, report = ttlib.decompose(matrix, eps=float(eps), driver="gram", return_report=True)
        assert norm(tt.to_tensor() - matrix) <= eps * norm(matrix) * (1 + 1e-13)
        assert report.tolerance_met


def test_gram_leaves_room_for_the_rounding_of_its_eigenvalues():
    """A budget that exactly covers what is dropped covers it only if no digit of it is wrong."""
    narrow = TruncationRule(4, np.float64(2.0**-20))
    assert truncated_svd(np.diag([1.0, 1.0, 2.0**-10, 2.0**-10]), rule=narrow, driver=DRIVERS["gram"]).basis.shape == (
        4,
        4,
    )
    matrix = np.diag([1.0, 1.0, 2.0**-10, 2.0**-10, 2.0**-10])
    exact = TruncationRule(5, np.float64(2 * 2.0**-20))
    cut = truncated_svd(matrix, rule=exact, driver=DRIVERS["gram"])
    assert (cut.driver, cut.basis.shape) == ("gram", (5, 4))
    roomy = TruncationRule(5, np.float64(2 * 2.0**-20 * 1.01))
    assert truncated_svd(matrix, rule=roomy, driver=DRIVERS["gram"]).basis.shape == (5, 3)


def test_auto_says_what_it_used_and_why():
    _, report = ttlib.decompose(np.random.default_rng(0).standard_normal((4, 8, 6)), return_report=True)
    assert report.drivers == ("qr", "qr")
    assert "QR of the long side" in report.reasons[0]
    assert "driver qr" in str(report)
    _, square = ttlib.decompose(np.eye(6), return_report=True)
    assert square.driver == "lapack"
    assert ttlib.decompose(np.ones(5), return_report=True)[1].driver == "none"


def test_gram_answers_where_it_can_see_and_leaves_the_rest():
    rng = np.random.default_rng(0)
    tensor = rng.standard_normal((8, 9, 10))
    tt, report = ttlib.decompose(tensor, ranks=3, driver="gram", return_report=True)
    assert report.drivers == ("gram", "gram")
    assert report.relative_error == pytest.approx(norm(tt.to_tensor() - tensor) / norm(tensor), rel=1e-12)
    graded = (rng.standard_normal((20, 10)) * np.logspace(0, -12, 10)) @ rng.standard_normal((10, 20))
    exact, report = ttlib.decompose(graded, eps=1e-9, driver="gram", return_report=True)
    assert report.drivers == ("lapack",)
    assert "below what a Gram matrix sees" in report.reasons[0]
    report = ttlib.decompose(graded, ranks=9, driver="gram", return_report=True)[1]
    assert report.drivers == ("lapack",)
    assert "in its noise" in report.reasons[0]
    assert norm(exact.to_tensor() - graded) <= 1e-9 * norm(graded)


def test_sketch_measures_what_it_did_not_see():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((400, 10)) @ rng.standard_normal((10, 450)) + 0.05 * rng.standard_normal((400, 450))
    tt, report = ttlib.decompose(matrix, ranks=10, driver="sketch", return_report=True)
    error = norm(tt.to_tensor() - matrix) / norm(matrix)
    best = ttlib.decompose(matrix, ranks=10, return_report=True)[1].relative_error
    assert report.driver == "sketch"
    assert report.relative_error == pytest.approx(error, rel=1e-10)
    assert error <= 1.01 * best


@pytest.mark.parametrize("eps", [0.3, 0.05, 1e-3])
def test_sketch_keeps_tolerances_on_slowly_falling_spectra(eps):
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((400, 400)))[0] for _ in range(2))
    matrix = (u / np.sqrt(1 + np.arange(400))) @ v
    tt, report = ttlib.decompose(matrix, eps=eps, driver="sketch", return_report=True)
    error = norm(tt.to_tensor() - matrix) / norm(matrix)
    assert error <= eps
    assert report.relative_error == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("complex_valued", [False, True])
def test_where_divide_and_conquer_does_not_converge_the_slow_routine_answers(monkeypatch, complex_valued):
    def fails(*args, **kwargs):
        msg = "SVD did not converge"
        raise np.linalg.LinAlgError(msg)

    rng = np.random.default_rng(0)
    tensor = rng.standard_normal((3, 4, 5)) + (1j * rng.standard_normal((3, 4, 5)) if complex_valued else 0)
    monkeypatch.setattr(np.linalg, "svd", fails)
    tt = ttlib.decompose(tensor)
    monkeypatch.undo()
    np.testing.assert_allclose(tt.to_tensor(), tensor, atol=1e-13)


def test_other_errors_of_a_library_pass_through(monkeypatch):
    def fails(*args, **kwargs):
        msg = "no room"
        raise MemoryError(msg)

    monkeypatch.setattr(np.linalg, "svd", fails)
    with pytest.raises(MemoryError, match="no room"):
        ttlib.decompose(np.ones((3, 4)))


def test_the_rule_counts_from_the_smallest_value_up():
    rule = TruncationRule(max_rank=10, budget=5.0)
    values = np.array([3.0, 2.0, 1.0])
    np.testing.assert_array_equal(rule.tails(values), [14.0, 5.0, 1.0, 0.0])
    assert rule.rank(values) == 1
    assert rule.rank(values, residual=1.0) == 2
    assert TruncationRule(1, 0.0).rank(values) == 1
    assert TruncationRule(9, 0.0).rank(values) == 3
    assert TruncationRule(9, 1e9).rank(values) == 1
    stack = TruncationRule(9, np.array([5.0, 0.5]))
    assert stack.rank(np.stack([values, values])) == 3


def test_the_error_is_measured_against_a_norm_that_single_precision_could_not_sum():
    """torch's own norm of 16 million float32 numbers is off by 6e-4: errors above 1, and tolerances missed by as much."""
    tensor = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))
    tt, report = ttlib.decompose(tensor, shape=[64] * 4, ranks=2, driver="gram", return_report=True)
    wide = tensor.double()
    error = float((tt.to_matrix(4096, 4096).double() - wide).norm() / wide.norm())
    assert report.relative_error == pytest.approx(error, rel=1e-7)


# The other half of ttlib.testing


def test_closeness_of_trains_is_measured_without_the_dense_tensor():
    huge = ttlib.random((3,) * 60, ranks=2, seed=0)
    assert_tt_close(huge + huge, 2 * huge)
    with pytest.raises(AssertionError, match=r"differs from what was expected by .*allowed: rtol=1.5e-08"):
        assert_tt_close(huge, 1.001 * huge)
    with pytest.raises(AssertionError, match="inf of its norm"):
        assert_tt_close(ttlib.ones((2, 3)), ttlib.zeros((2, 3)))
    assert_tt_close(1e-9 * ttlib.ones((2, 3)), ttlib.zeros((2, 3)), atol=1e-6)


def test_closeness_to_dense_arrays(asarray):
    dense = np.random.default_rng(0).standard_normal((4, 6))
    assert_tt_close(ttlib.decompose(asarray(dense)), asarray(dense))
    assert_tt_close(ttlib.decompose_matrix(asarray(dense), row_shape=[2, 2], col_shape=[3, 2]), asarray(dense))
    with pytest.raises(AssertionError, match="differs"):
        assert_tt_close(ttlib.decompose(asarray(dense)), asarray(dense + 1e-3))
    with pytest.raises(AssertionError, match="24 entries.*20 expected"):
        assert_tt_close(ttlib.decompose(asarray(dense)), asarray(np.ones((4, 5))))


def test_strategies_draw_what_was_asked():
    from hypothesis import find

    like = torch.zeros(1, dtype=torch.float32)
    tt = find(tensor_trains(min_order=3, max_order=3, max_rank=2, like=like), lambda tt: max(tt.ranks) == 2)
    assert tt.order == 3
    assert tt.dtype == torch.float32
    assert find(tensor_trains(shape=(2, 3)), lambda tt: True).shape == (2, 3)
    assert find(tt_matrices(col_shape=(2, 3)), lambda A: True).col_shape == (2, 3)
    assert find(tt_matrices(min_order=2), lambda A: A.shape[0] > 2).order >= 2

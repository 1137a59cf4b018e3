"""Cross interpolation: exact where the ranks are finite, within eps where not, honest where it cannot know."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ttlib
from tests.core.strategies import shapes
from ttlib.cross_interpolation import cross


class Counted:
    """A function of the indices that keeps what it was asked."""

    def __init__(self, function):
        self.function = function
        self.points = []

    def __call__(self, indices):
        self.points.append(np.array(indices))
        return self.function(indices)

    @property
    def calls(self):
        return sum(len(points) for points in self.points)


def run(function, shape, **options):
    """Interpolate, and check that what is reported was really asked, each entry once."""
    counted = Counted(function)
    tt, report = cross(counted, shape=shape, return_report=True, **options)
    asked = np.concatenate(counted.points)
    assert report.evaluations == len(asked) == len(np.unique(asked, axis=0))
    assert report.ranks == tt.ranks
    assert tt.shape == tuple(shape)
    return tt, report


def values_at(tt, points):
    rows = np.ones((len(points), 1, 1))
    for core, column in zip(tt.cores, points.T, strict=True):
        rows = rows @ np.asarray(core).transpose(1, 0, 2)[column]
    return rows[:, 0, 0]


def error_at_random(tt, function, count=2000, seed=987):
    points = np.random.default_rng(seed).integers(tt.shape, size=(count, tt.order))
    exact = np.asarray(function(points))
    scale = np.abs(exact).max()
    return np.linalg.norm(values_at(tt, points) / scale - exact / scale) / np.linalg.norm(exact / scale)


def everywhere(function, shape):
    points = np.stack(np.unravel_index(np.arange(math.prod(shape)), shape), axis=1)
    return np.asarray(function(points)).reshape(shape)


def ignore(function):
    return lambda indices: function(np.asarray(indices))


# ---- exact recovery


@settings(max_examples=40)
@given(shapes, st.integers(1, 4), st.booleans(), st.integers(0, 2**31))
def test_random_trains_come_back(shape, rank, is_complex, seed):
    train = ttlib.random(shape, ranks=rank, seed=seed)
    phase = np.exp(0.3j * seed) if is_complex else 1.0
    tt, report = run(lambda i: values_at(train, i) * phase, shape)
    assert report.converged, report
    assert all(found <= given for found, given in zip(tt.ranks, train.ranks, strict=True))
    expected = np.asarray(train.to_tensor()) * phase
    assert np.linalg.norm(tt.to_tensor() - expected) <= 1e-7 * np.linalg.norm(expected)


@settings(max_examples=20)
@given(shapes, st.integers(0, 2**31))
def test_tensors_of_full_rank_are_read_whole_and_exact(shape, seed):
    tensor = np.random.default_rng(seed).standard_normal(shape)
    tt, report = run(lambda i: tensor[tuple(i.T)], shape)
    assert report.converged
    assert report.evaluations <= tensor.size
    np.testing.assert_allclose(tt.to_tensor(), tensor, atol=1e-7 * np.abs(tensor).max())


@pytest.mark.parametrize(
    ("function", "shape", "rank", "most"),
    [
        (lambda i: i.sum(axis=1), [10] * 8, 2, 2500),
        (lambda i: np.sin(0.1 * i.sum(axis=1)), [10] * 8, 2, 2500),
        (lambda i: np.exp(0.1j * i.sum(axis=1)), [10] * 8, 1, 1500),
        (lambda i: i.prod(axis=1), [5] * 6, 1, 1500),
        (lambda i: i.max(axis=1) + 2, [1, 1, 1], 1, 1),
        (lambda i: i[:, 0] ** 2, [50], 1, 50),
        (lambda i: i.sum(axis=1) ** 2, [1, 1, 50, 1, 3, 1], 3, 150),
        (lambda i: np.sin(0.01 * i.sum(axis=1)), [2, 3, 4, 3] * 25, 2, 6000),
    ],
    ids=["sum", "sine", "phase", "product", "one entry", "one mode", "modes of 1", "a hundred modes"],
)
def test_known_ranks(function, shape, rank, most):
    def number(i):
        return function(i) * 1.0

    tt, report = run(number, shape)
    assert report.converged, report
    assert max(tt.ranks) == rank
    assert report.evaluations <= most
    assert error_at_random(tt, number) < 1e-12


@pytest.mark.parametrize(("function", "rank"), [(lambda x: np.exp(-3 * x), 1), (lambda x: np.sin(50 * x), 2)])
def test_a_million_points_in_twenty_bits(function, rank):
    weights = 2.0 ** -np.arange(1, 21)
    tt, report = run(lambda i: function(i @ weights), [2] * 20)
    assert report.converged
    assert max(tt.ranks) == rank
    assert report.evaluations < 1000
    grid = function(np.arange(2**20) / 2**20)
    assert np.linalg.norm(np.asarray(tt.to_tensor()).ravel() - grid) < 1e-12 * np.linalg.norm(grid)


# ---- tolerance


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-7, 1e-9, 1e-11])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_error_follows_eps(eps, seed):
    def inverse(i):
        return 1 / (1 + i.sum(axis=1))

    tt, report = run(inverse, [10] * 8, eps=eps, seed=seed)
    assert report.converged, report
    assert report.validation_error <= eps
    assert error_at_random(tt, inverse) <= eps
    assert max(tt.ranks) <= 6 - math.log10(eps)


def test_the_hilbert_tensor():
    def hilbert(i):
        return 1 / (1 + i.sum(axis=1))

    shape = (32, 32, 32)
    tt, report = run(hilbert, shape, eps=1e-9)
    assert report.converged
    exact = everywhere(hilbert, shape)
    assert np.linalg.norm(tt.to_tensor() - exact) <= 1e-9 * np.linalg.norm(exact)
    assert report.evaluations < exact.size


def test_a_rank_cap_gives_almost_the_best_train_of_that_rank():
    def inverse(i):
        return 1 / (1 + i.sum(axis=1))

    shape = (10,) * 5
    exact = everywhere(inverse, shape)
    for rank in (1, 2, 3):
        tt, report = run(inverse, shape, max_rank=rank)
        assert max(tt.ranks) == rank
        assert not report.converged
        assert f"max_rank={rank}" in report.reason
        best = np.linalg.norm(ttlib.decompose(exact, ranks=rank).to_tensor() - exact)
        assert np.linalg.norm(tt.to_tensor() - exact) <= 4 * best


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e300, 1e-290])
def test_no_scale_overflows_or_vanishes(scale):
    def sine(i):
        return scale * np.sin(0.1 * i.sum(axis=1) + 0.1)

    tt, report = run(sine, [10] * 6)
    assert report.converged, report
    assert error_at_random(tt, sine) < 1e-10


# ---- what is easily missed


@pytest.mark.parametrize("seed", range(8))
def test_scattered_spikes_are_found_or_the_report_says_no(seed):
    shape = (4,) * 7
    spikes = np.zeros(shape)
    rng = np.random.default_rng(5000 + seed)
    spikes[tuple(rng.integers(4, size=(7, 40)))] = rng.uniform(0.5, 1, 40)
    tt, report = run(lambda i: spikes[tuple(i.T)], shape, seed=seed)
    right = np.linalg.norm(tt.to_tensor() - spikes) <= 1e-6 * np.linalg.norm(spikes)
    assert right or not report.converged


@pytest.mark.parametrize("seed", range(8))
def test_narrow_bumps_are_found_or_the_report_says_no(seed):
    centres = np.random.default_rng(6000 + seed).integers(16, size=(3, 6))

    def bumps(i):
        return sum(np.exp(-2.0 * ((i - centre) ** 2).sum(axis=1)) for centre in centres)

    tt, report = run(bumps, [16] * 6, eps=1e-6, seed=seed)
    right = np.abs(values_at(tt, centres) - bumps(centres)).max() < 1e-4
    assert right or not report.converged


def test_blocks_far_from_each_other_are_found():
    def blocks(i):
        low, high = (i < 2).all(axis=1), (i >= 4).all(axis=1)
        return low * (1.0 + i.sum(axis=1)) + high * 3.0

    tt, report = run(blocks, [6] * 5)
    assert report.converged, report
    np.testing.assert_allclose(tt.to_tensor(), everywhere(blocks, (6,) * 5), atol=1e-6)


def test_a_needle_that_no_sample_sees_is_not_certified():
    needle = np.array([1, 0] * 10)
    tt, report = run(lambda i: (i == needle).all(axis=1) * 1.0, [2] * 20)
    assert not report.converged
    assert "entries read are zero, which others may not be" in report.reason
    assert tt.ranks == (1,) * 21


def test_a_needle_that_is_seen_is_reproduced_but_not_certified():
    tt, report = run(lambda i: (i == 0).all(axis=1) * 2.0, [2] * 20)
    assert values_at(tt, np.zeros((1, 20), dtype=int))[0] == pytest.approx(2.0)
    assert not report.converged
    assert "nearly all its weight is outside" in report.reason


def test_the_zero_function():
    tt, report = run(lambda i: 0.0 * i[:, 0], [4, 4, 4])
    assert report.converged  # all 64 entries were read
    assert tt.ranks == (1, 1, 1, 1)
    assert not np.any(tt.to_tensor())
    _, large = run(lambda i: 0.0 * i[:, 0], [10] * 6)
    assert not large.converged
    assert math.isnan(large.validation_error)


def test_noise_does_not_converge_and_says_why():
    def noise(i):
        return np.random.default_rng(0).random(4**9)[np.ravel_multi_index(tuple(i.T), [4] * 9)]

    _, report = run(noise, [4] * 9, max_evaluations=20_000)
    assert not report.converged
    assert report.validation_error > 0.1
    assert "max_evaluations=20,000" in report.reason


@pytest.mark.parametrize("options", [{"max_rank": 3}, {"max_evaluations": 15_000}, {"max_sweeps": 2}])
@pytest.mark.parametrize("seed", [0, 1, 8, 18, 21])
def test_the_reported_error_is_not_flattered(options, seed):
    weights = np.random.default_rng(900 + seed).uniform(0, 2, (3, 7))  # 8, 18, 21: once flattered by up to 1e13

    def rough(i):
        bumps = np.exp(-0.05 * ((i[:, None, :] - 4 * weights) ** 2).sum(axis=2)).sum(axis=1)
        return bumps * np.cos(i @ weights[0]) + 0.3 * (i.sum(axis=1) % 7 == 3) * (i[:, 0] == 2)

    tt, report = run(rough, [8] * 7, seed=seed, **options)
    error = error_at_random(tt, rough)
    assert report.validation_error > 0.6 * error
    assert error <= report.tolerance or not report.converged


# ---- limits


@pytest.mark.parametrize("limit", [1000, 3000, 7000, 9999, 10_000])
def test_the_cap_is_never_exceeded(limit):
    def inverse(i):
        return 1 / (1 + i.sum(axis=1))

    counted = Counted(inverse)
    try:
        _, report = cross(counted, shape=[10] * 6, eps=1e-14, max_evaluations=limit, return_report=True)
    except ttlib.TTError as error:
        assert f"max_evaluations={limit:,}" in str(error)  # noqa: PT017
    else:
        assert report.evaluations == counted.calls
        assert not report.converged
        assert report.validation_error < 0.1
    assert counted.calls <= limit


def test_too_few_evaluations_for_a_first_train():
    with pytest.raises(
        ttlib.TTError, match=r"max_evaluations=50 does not allow a first train.*entries were read and the"
    ):
        cross(lambda i: 1.0 + i[:, 0], shape=[10] * 10, max_evaluations=50)


def test_a_cap_that_the_whole_tensor_fits_is_enough():
    tensor = np.random.default_rng(0).standard_normal((4, 4, 4))
    tt, report = run(lambda i: tensor[tuple(i.T)], [4, 4, 4], max_evaluations=71)
    assert report.converged
    np.testing.assert_allclose(tt.to_tensor(), tensor, atol=1e-7)


def test_max_sweeps():
    _, report = run(lambda i: 1 / (1 + i.sum(axis=1)), [10] * 6, max_sweeps=1)
    assert report.sweeps == 1
    assert not report.converged
    assert report.reason == "max_sweeps=1 are done"


def test_the_seed_decides():
    def inverse(i):
        return 1 / (1 + i.sum(axis=1))

    first, second, other = (cross(inverse, shape=[8] * 5, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first.cores, second.cores, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first.cores, other.cores, strict=True))


# ---- libraries and dtypes


@pytest.mark.parametrize(
    ("dtype", "expected", "tolerance"),
    [
        (np.float64, "float64", 1e-12),
        (np.float32, "float32", 1e-5),
        (np.float16, "float16", 3e-2),
        (np.int32, "float64", 1e-12),
        (np.complex64, "complex64", 1e-5),
        (np.complex128, "complex128", 1e-12),
    ],
)
def test_the_dtype_is_that_of_the_values(dtype, expected, tolerance):
    tt, report = run(lambda i: (1 + i.sum(axis=1)).astype(dtype), [6] * 4)
    assert report.converged, report
    assert tt.dtype == np.dtype(expected)
    exact = everywhere(lambda i: 1.0 + i.sum(axis=1), (6,) * 4)
    assert np.abs(tt.to_tensor() - exact).max() <= tolerance * exact.max()


def test_large_half_precision_values_do_not_overflow_in_a_core():
    tt, report = run(lambda i: (60000.0 - i.sum(axis=1)).astype(np.float16), [10] * 5)
    assert report.converged
    assert np.isfinite(values_at(tt, np.array([[1, 2, 3, 4, 5]]))).all()
    assert all(np.isfinite(core).all() for core in tt.cores)


def test_torch_indices_and_values():
    seen = []

    def sine(i):
        seen.append(i)
        return torch.sin(0.1 * i.sum(dim=1))

    tt = cross(sine, shape=[10] * 5, like=torch.zeros(1, dtype=torch.float64))
    assert all(isinstance(i, torch.Tensor) and i.dtype == torch.int64 for i in seen)
    assert isinstance(tt.cores[0], torch.Tensor)
    assert tt.dtype == torch.float32  # what the function returns
    assert tt.device == torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_values_in_torch_decide_where_nothing_else_does(dtype):
    def linear(i):
        return torch.from_numpy(1.0 + i.sum(axis=1)).to(dtype).requires_grad_()

    tt = cross(linear, shape=[4] * 4)
    assert tt.dtype == dtype
    np.testing.assert_allclose(values_at(tt.to(dtype=torch.float64), np.array([[0, 1, 2, 3]])), 7, rtol=5e-2)


def test_lists_of_numbers_and_a_numpy_like():
    tt = cross(lambda i: [float(row.sum()) for row in i], shape=[5] * 3, like=np.zeros(1, dtype=np.float32))
    assert tt.dtype == np.float64
    np.testing.assert_allclose(tt.to_tensor(), everywhere(lambda i: i.sum(axis=1), (5,) * 3), atol=1e-10)


def test_the_function_may_spoil_its_argument():
    def spoil(i):
        total = i.sum(axis=1) * 1.0
        i[:] = -1
        return total

    tt = cross(spoil, shape=[5] * 3)
    np.testing.assert_allclose(tt.to_tensor(), everywhere(lambda i: i.sum(axis=1), (5,) * 3), atol=1e-10)


# ---- errors


def a_nan(i):
    return np.where((i == [1, 2, 3]).all(axis=1), np.nan, 1.0 + i.sum(axis=1))


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (a_nan, ttlib.NonFiniteError, r"the function is nan at index \(1, 2, 3\)"),
        (lambda i: np.full(len(i), np.inf), ttlib.NonFiniteError, r"is inf at index \(\d, \d, \d\)"),
        (lambda i: np.ones(len(i) + 1), ttlib.ShapeError, r"must return one value a row"),
        (lambda i: np.ones((len(i), 1)), ttlib.ShapeError, r"shape \(\d+, 1\) for \d+ index rows"),
        (lambda i: np.float64(1), ttlib.ShapeError, r"shape \(\)"),
        (lambda i: None, ttlib.BackendError, "the function returned NoneType"),
        (lambda i: "text", ttlib.BackendError, "the function returned str"),
        (lambda i: ["a"] * len(i), ttlib.BackendError, "dtype <U1"),
        (lambda i: [None] * len(i), ttlib.BackendError, "dtype object"),
        (lambda i: [[1], [2, 3]], ttlib.BackendError, "unequal parts"),
        (lambda i: i[:, 0] > 0, ttlib.BackendError, r"dtype bool.*astype\(float\)"),
        (lambda i: torch.ones(len(i), dtype=torch.bool), ttlib.BackendError, "got dtype bool"),
        (lambda i: {}["missing"], KeyError, "missing"),
    ],
)
def test_functions_that_return_no_entries(function, error, message):
    with pytest.raises(error, match=message):
        cross(function, shape=[4, 4, 4])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shape": []}, ttlib.ShapeError, "at least one mode"),
        ({"shape": [3, 0]}, ttlib.ShapeError, "mode 1 of shape"),
        ({"shape": 3}, ttlib.ShapeError, "list or tuple"),
        ({"eps": 0}, ttlib.RankError, "eps must be above 0"),
        ({"eps": -1}, ttlib.RankError, "eps must be"),
        ({"eps": "small"}, ttlib.RankError, "eps must be"),
        ({"max_rank": 0}, ttlib.RankError, "ranks must be integers >= 1"),
        ({"max_evaluations": 0}, ttlib.ShapeError, "max_evaluations must be an integer >= 1"),
        ({"max_sweeps": 1.5}, ttlib.ShapeError, "max_sweeps must be an integer"),
    ],
)
def test_options_that_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        cross(lambda i: np.ones(len(i)), **{"shape": [3, 3], **options})


def test_an_array_is_no_function():
    with pytest.raises(ttlib.BackendError, match="got ndarray: for an array there is ttlib.decompose"):
        cross(np.ones((3, 3)), shape=[3, 3])


def test_the_report_reads_well():
    _, report = run(lambda i: np.sin(0.1 * i.sum(axis=1)), [10] * 4)
    assert str(report).startswith("converged: change and validation error are within 1.0e-08; validation error")
    assert str(report).endswith("ranks (1, 2, 2, 2, 1)")


# ---- oracle


def test_no_more_evaluations_than_teneva_for_the_same_error():
    teneva = pytest.importorskip("teneva")

    def inverse(i):
        return 1 / (1.0 + i.sum(axis=1))

    tt, report = run(inverse, [10] * 10, eps=1e-8)
    counted = Counted(inverse)
    start = teneva.rand([10] * 10, 1, seed=0)
    theirs = teneva.cross(counted, start, e=1e-8, nswp=40, dr_min=1, dr_max=1, cache={}, info={})
    points = np.random.default_rng(1).integers(10, size=(2000, 10))
    exact = inverse(points)
    their_error = np.linalg.norm(teneva.get_many(theirs, points) - exact) / np.linalg.norm(exact)
    assert error_at_random(tt, inverse) <= max(1e-8, their_error)
    assert report.evaluations <= counted.calls

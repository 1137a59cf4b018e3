"""Completion: trains come back from samples, over-fitting is seen, and what no sample shows is said."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ttlib
from ttlib.completion import complete
from ttlib.cores.complete import evaluate


def sine(indices):
    return np.sin(0.2 * indices.sum(axis=1))


def draw(shape, count, seed=0):
    return np.random.default_rng(seed).integers(shape, size=(count, len(shape)))


def run(function, shape, ranks, count, *, seed=0, **options):
    indices = draw(shape, count, seed)
    return complete(indices, function(indices), shape=shape, ranks=ranks, return_report=True, **options)


def error_elsewhere(tt, function, seed=4321):
    points = draw(tt.shape, 2000, seed)
    exact = function(points)
    scale = np.abs(exact).max()
    found = evaluate([np.asarray(core) for core in tt.cores], points)
    return np.linalg.norm(found / scale - exact / scale) / np.linalg.norm(exact / scale)


# ---- recovery


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 3), st.booleans(), st.integers(0, 2**31))
def test_trains_of_positive_cores_come_back(shape, rank, is_complex, seed):
    rng = np.random.default_rng(seed)
    ranks = ttlib.clip_ranks(tuple(shape), rank)
    cores = [rng.uniform(0.2, 1.0, (left, n, right)) for left, n, right in zip(ranks, shape, ranks[1:], strict=False)]
    phase = np.exp(0.01j * seed) if is_complex else 1.0
    count = 30 * ttlib.count_parameters(shape, ranks=rank)
    tt, report = run(lambda i: evaluate(cores, i) * phase, shape, rank, count, eps=1e-6)
    assert report.converged, report
    assert error_elsewhere(tt, lambda i: evaluate(cores, i) * phase) < 1e-4


@pytest.mark.parametrize(
    ("function", "shape", "ranks", "count"),
    [
        (sine, [10] * 6, 2, 1200),
        (sine, [10] * 6, 5, 1800),
        (lambda i: np.exp(0.2j * i.sum(axis=1)), [10] * 6, 2, 1200),
        (lambda i: i.sum(axis=1), [7, 8, 9, 10], 2, 1200),
        (lambda i: i[:, 0] ** 2, [10], 1, 100),
        (lambda i: i.sum(axis=1) ** 2, [30, 30, 1], [3, 1], 700),
    ],
    ids=["sine", "a cap above the rank", "complex", "integers", "one mode", "a mode of 1"],
)
def test_known_ranks(function, shape, ranks, count):
    tt, report = run(function, shape, ranks, count)
    assert report.converged, report
    assert report.training_residual <= 1e-8
    assert report.validation_error <= 1e-8
    assert report.ranks == tt.ranks
    assert error_elsewhere(tt, function) < 1e-7


def test_gaussian_trains_come_back_from_enough_samples():
    for seed in range(3):
        train = ttlib.random([10] * 4, ranks=3, seed=seed)
        cores = [np.asarray(core) for core in train.cores]
        tt, report = run(lambda i: evaluate(cores, i), [10] * 4, 3, 3600, seed=seed)  # noqa: B023
        assert report.converged, report
        assert np.linalg.norm(tt.to_tensor() - train.to_tensor()) < 1e-6 * np.linalg.norm(train.to_tensor())


def test_a_tighter_tolerance_is_met_too():
    tt, report = run(sine, [10] * 6, 2, 1200, eps=1e-13)
    assert report.converged, report
    assert error_elsewhere(tt, sine) < 1e-12


@pytest.mark.parametrize("scale", [1e200, 1e-200, 1e300])
def test_no_scale_overflows_or_vanishes(scale):
    tt, report = run(lambda i: scale * sine(i), [10] * 5, 2, 800)
    assert report.converged, report
    assert error_elsewhere(tt, lambda i: scale * sine(i)) < 1e-7


def test_noise_is_not_fitted():
    rng = np.random.default_rng(7)
    tt, report = run(lambda i: sine(i) + 0.01 * rng.standard_normal(len(i)), [10] * 6, 5, 3000)
    assert not report.converged
    assert "no gain" in report.reason
    assert 0.005 < report.validation_error < 0.03
    assert error_elsewhere(tt, sine) < 0.03


def test_ranks_that_are_too_small():
    tt, report = run(lambda i: 1 / (1 + i.sum(axis=1)), [8] * 4, 1, 2000)
    assert tt.ranks == (1, 1, 1, 1, 1)
    assert not report.converged
    assert 0.01 < report.validation_error < 0.5


# ---- what samples cannot tell


def test_too_few_samples_are_said_to_be_too_few():
    _, report = run(sine, [10] * 6, 6, 200)
    assert report.underdetermined
    assert report.samples_per_parameter == pytest.approx(180 / ttlib.count_parameters([10] * 6, ranks=6))
    assert "UNDERDETERMINED" in str(report)
    assert not report.converged
    assert report.validation_error > 0.5


def test_slices_without_samples_are_counted_and_stay_finite():
    indices = draw([10] * 4, 1500)
    indices[indices[:, 1] == 4, 1] = 5
    indices[indices[:, 3] == 0, 3] = 9
    tt, report = complete(indices, sine(indices), shape=[10] * 4, ranks=2, return_report=True)
    assert report.unseen_slices == 2
    assert "2 slices without a sample" in str(report)
    assert report.converged
    assert np.isfinite(tt.to_tensor()).all()
    assert np.abs(tt.to_tensor()).max() < 100


def test_nothing_held_out():
    tt, report = run(sine, [10] * 5, 2, 1000, validation=0)
    assert math.isnan(report.validation_error)
    assert report.converged
    assert error_elsewhere(tt, sine) < 1e-7


def test_a_single_sample():
    tt, report = complete(np.array([[1, 2]]), np.array([3.0]), shape=[4, 4], ranks=1, return_report=True)
    assert tt.to_tensor()[1, 2] == pytest.approx(3)
    assert math.isnan(report.validation_error)
    assert report.unseen_slices == 6


def test_repeated_samples():
    indices = np.repeat(draw([8] * 4, 600), 3, axis=0)
    tt = complete(indices, sine(indices), shape=[8] * 4, ranks=2)
    assert error_elsewhere(tt, sine) < 1e-6


def test_zeros():
    tt, report = run(lambda i: 0.0 * i[:, 0], [5] * 3, 2, 100)
    assert report.converged
    assert not np.any(tt.to_tensor())


# ---- options


def test_the_seed_decides():
    indices = draw([6] * 4, 500)
    first, second, other = (
        complete(indices, sine(indices), shape=[6] * 4, ranks=2, max_sweeps=3, seed=seed) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first.cores, second.cores, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first.cores, other.cores, strict=True))


def test_a_start_near_the_end_saves_sweeps():
    tt, from_nothing = run(sine, [10] * 6, 2, 1200)
    moved = ttlib.TensorTrain([core * 1.01 for core in tt.cores])
    _, from_there = run(sine, [10] * 6, 2, 1200, initial=moved)
    assert from_there.converged
    assert from_there.sweeps < from_nothing.sweeps


def test_max_sweeps():
    _, report = run(sine, [10] * 6, 2, 1200, max_sweeps=2)
    assert report.sweeps == 2
    assert report.reason == "max_sweeps=2 are done"
    assert not report.converged


# ---- libraries and dtypes


def test_every_library_and_read_only_input(asarray):
    indices = draw([6] * 4, 600)
    tt = complete(asarray(indices), asarray(sine(indices)), shape=[6] * 4, ranks=2)
    assert type(tt.cores[0]) is type(asarray(np.zeros(1)))
    assert error_elsewhere(tt, sine) < 1e-6


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-7), (torch.float32, 1e-5), (torch.bfloat16, 0.1), (torch.complex64, 1e-5)],
)
def test_the_dtype_is_that_of_the_values(dtype, tolerance):
    indices = draw([6] * 4, 900)
    values = torch.from_numpy(sine(indices)).to(dtype).requires_grad_()
    tt, report = complete(torch.from_numpy(indices), values, shape=[6] * 4, ranks=2, return_report=True)
    assert tt.dtype == dtype
    assert not tt.cores[0].requires_grad
    assert report.validation_error < tolerance
    exact = sine(np.stack(np.unravel_index(np.arange(6**4), [6] * 4), axis=1)).reshape([6] * 4)
    found = tt.to_tensor().to(torch.complex128).numpy()
    assert np.linalg.norm(found - exact) < 3 * tolerance * np.linalg.norm(exact)


# ---- errors

FINE = np.zeros((5, 2), dtype=int)


@pytest.mark.parametrize(
    ("indices", "values", "options", "error", "message"),
    [
        (FINE * 1.0, np.ones(5), {}, ttlib.BackendError, "indices must be integers, got dtype float64"),
        (FINE, [1.0] * 5, {}, ttlib.BackendError, "got builtins.list"),
        (FINE[:, :1], np.ones(5), {}, ttlib.ShapeError, r"must have shape \(B, 2\).*got \(5, 1\)"),
        (FINE[0], np.ones(5), {}, ttlib.ShapeError, r"must have shape \(B, 2\).*got \(2,\)"),
        (FINE[:0], np.ones(0), {}, ttlib.ShapeError, "at least one row"),
        (FINE + 3, np.ones(5), {}, ttlib.ShapeError, "index 3 in row 0 is out of range for mode 0"),
        (FINE - 4, np.ones(5), {}, ttlib.ShapeError, "index -4 in row 0 is out of range for mode 0"),
        (FINE, np.ones(4), {}, ttlib.ShapeError, r"values have shape \(4,\), but there are 5 rows"),
        (FINE, np.ones((5, 1)), {}, ttlib.ShapeError, "give one value a row"),
        (FINE, np.array([1, 2, np.nan, 4, 5]), {}, ttlib.NonFiniteError, r"first at \(2,\)"),
        (FINE, np.array(list("abcde")), {}, ttlib.BackendError, "got dtype"),
        (FINE, np.ones(5), {"shape": [3]}, ttlib.ShapeError, r"must have shape \(B, 1\)"),
        (FINE, np.ones(5), {"shape": [3, 0]}, ttlib.ShapeError, "mode 1 of shape"),
        (FINE, np.ones(5), {"ranks": 0}, ttlib.RankError, "ranks must be integers"),
        (FINE, np.ones(5), {"eps": -1}, ttlib.RankError, "eps must be"),
        (FINE, np.ones(5), {"max_sweeps": 0}, ttlib.ShapeError, "max_sweeps must be"),
        (FINE, np.ones(5), {"validation": 1}, ttlib.RankError, r"held out, in \[0, 1\), got 1"),
        (FINE, np.ones(5), {"validation": -0.1}, ttlib.RankError, "held out"),
        (FINE, np.ones(5), {"regularization": math.inf}, ttlib.RankError, "regularization must be"),
        (FINE, np.ones(5), {"initial": 3}, ttlib.BackendError, "must be a TensorTrain, got int"),
        (FINE, np.ones(5), {"initial": ttlib.random([3, 4], ranks=1)}, ttlib.ShapeError, "same shape"),
        (FINE, np.ones(5), {"initial": ttlib.random([3, 3], ranks=3)}, ttlib.RankError, r"round it"),
    ],
)
def test_input_that_cannot_be(indices, values, options, error, message):
    with pytest.raises(error, match=message):
        complete(indices, values, **{"shape": [3, 3], "ranks": 2, **options})

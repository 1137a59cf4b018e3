"""Random starts with the stated spread, and the exact removal of their noise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttlib
from tests.core.strategies import norm, shapes

PAPER = [8, 8, 12, 8, 8]


@pytest.mark.parametrize(
    ("shape", "ranks"), [(PAPER, 5), (PAPER, [2, 9, 4, 3]), ([16, 16, 16, 4, 4, 4], 8), ([30], 1), ([5, 7], 3)]
)
def test_entries_have_the_stated_standard_deviation(shape, ranks):
    """Over draws, for any rank profile: tltorch and others miss it by orders of magnitude."""
    squares = [np.mean(ttlib.random(shape, ranks=ranks, std=0.02, seed=seed).to_tensor() ** 2) for seed in range(600)]
    # few independent numbers make a heavy-tailed product: allow four standard errors
    error = 4 * np.std(squares) / np.sqrt(len(squares)) / 0.02**2
    assert np.mean(squares) / 0.02**2 == pytest.approx(1, abs=error)
    assert error < 0.5


def test_the_same_seed_gives_the_same_numbers_in_every_library(asarray):
    like = asarray(np.zeros(1))
    expected = ttlib.random(PAPER, ranks=5, seed=7)
    for ours, theirs in zip(ttlib.random(PAPER, ranks=5, seed=7, like=like).cores, expected.cores, strict=True):
        assert type(ours) is type(like)
        np.testing.assert_array_equal(np.asarray(ours), theirs)


def test_a_generator_advances_and_no_seed_differs():
    generator = np.random.default_rng(0)
    first, second = (ttlib.random([4, 4], ranks=2, seed=generator).to_tensor() for _ in range(2))
    assert not np.array_equal(first, second)
    assert not np.array_equal(*(ttlib.random([4, 4], ranks=2).to_tensor() for _ in range(2)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_follows_like(dtype):
    assert ttlib.random([4, 4], ranks=2, like=torch.zeros(1, dtype=dtype)).dtype == dtype


def test_std_zero_is_zero():
    assert not ttlib.random([4, 4], ranks=2, std=0.0).to_tensor().any()


@pytest.mark.parametrize("std", [-1.0, float("nan"), float("inf")])
def test_bad_std(std):
    with pytest.raises(ttlib.RankError, match=f"std must be.*{std}"):
        ttlib.random([4, 4], ranks=2, std=std)


@pytest.mark.parametrize("like", [None, torch.zeros(1, dtype=torch.float64), np.zeros(1, dtype=np.complex128)])
def test_measure_agrees_with_the_dense_matrix(like):
    tt = ttlib.random(PAPER, ranks=5, std=0.02, seed=0, like=like)
    noise = ttlib.noise_reduction.measure(tt, rows=768, cols=64)
    matrix = np.asarray(tt.to_matrix(768, 64))
    assert noise.mean == pytest.approx(matrix.mean(), abs=1e-12)
    assert noise.std == pytest.approx(matrix.std(), rel=1e-9)
    assert noise.frobenius_norm == pytest.approx(norm(matrix), rel=1e-9)
    assert noise.spectral_norm == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-9)


def test_the_papers_mean_is_no_noise_to_speak_of():
    """What docs/initialisation.md says: subtracting the mean removes under 1 % of the random start."""
    tt = ttlib.random(PAPER, ranks=5, std=0.02, seed=0)
    noise = ttlib.noise_reduction.measure(tt, rows=768, cols=64)
    assert abs(noise.mean) < 0.1 * noise.std


@given(shapes.filter(lambda s: len(s) > 1), st.integers(1, 5), st.data())
def test_displacement_is_the_difference_and_exactly_zero_at_the_start(shape, rank, data):
    split = data.draw(st.integers(1, len(shape) - 1))
    start, moved = (ttlib.random(shape, ranks=rank, seed=seed) for seed in (1, 2))
    rows, cols = int(np.prod(shape[:split])), int(np.prod(shape[split:]))
    p, q = ttlib.noise_reduction.displaced_factors(moved.cores, initial=start.cores, split=split)
    expected = moved.to_matrix(rows, cols) - start.to_matrix(rows, cols)
    np.testing.assert_allclose(p @ q, expected, atol=1e-11 * (1 + np.abs(expected).max()))
    p, q = ttlib.noise_reduction.displaced_factors(start.cores, initial=start.cores, split=split)
    assert not (p @ q).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zero_at_the_start_holds_in_every_dtype_with_a_gradient_in_every_core(dtype):
    start = ttlib.random(PAPER, ranks=5, seed=0, like=torch.zeros(1, dtype=dtype)).cores
    cores = [core.clone().requires_grad_() for core in start]
    p, q = ttlib.noise_reduction.displaced_factors(cores, initial=start, split=3)
    x = torch.randn(7, 768, dtype=dtype)
    y = x @ p @ q
    assert not y.any()
    (y * torch.randn_like(y)).sum().backward()
    assert all(core.grad.abs().sum() > 0 for core in cores)


def test_small_displacements_keep_their_precision():
    """The plain difference of two products loses the digits that the displacement keeps."""
    like = torch.zeros(1)
    start = ttlib.random(PAPER, ranks=5, seed=0, like=like).cores
    change = ttlib.random(PAPER, ranks=5, seed=1, like=like).cores
    moved = [core + 1e-6 * step for core, step in zip(start, change, strict=True)]
    exact = (
        ttlib.TensorTrain([c.double() for c in moved]).to_tensor()
        - ttlib.TensorTrain([c.double() for c in start]).to_tensor()
    )
    p, q = ttlib.noise_reduction.displaced_factors(moved, initial=start, split=3)
    plain = ttlib.TensorTrain(moved).to_tensor() - ttlib.TensorTrain(start).to_tensor()
    error = float((p.double() @ q.double() - exact.reshape(768, 64)).norm() / exact.norm())
    plain_error = float((plain.double() - exact).norm() / exact.norm())
    assert error < 1e-5
    assert plain_error > 20 * error


def test_displacement_refuses_other_shapes_and_splits():
    a, b = ttlib.random([4, 4], ranks=2).cores, ttlib.random([4, 4], ranks=3).cores
    with pytest.raises(ttlib.ShapeError, match="same shapes"):
        ttlib.noise_reduction.displaced_factors(a, initial=b, split=1)
    with pytest.raises(ttlib.ShapeError, match="between 1 and 1.*got 2"):
        ttlib.noise_reduction.displaced_factors(a, initial=a, split=2)

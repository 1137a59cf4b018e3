from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ttlib.checkpoint import leading_values, matrix_blocks
from ttlib.checkpoint.bond_spectrum import BondSpectrum, round_down, round_up, to_digits
from ttlib.checkpoint.spectra import bond_spectra
from ttlib.errors import BackendError, NonFiniteError, ShapeError

DTYPES = ("float16", "float32", "float64")


def divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def oracle(matrix: np.ndarray, left: int) -> np.ndarray:
    """The singular values by LAPACK in double, of a matrix whose largest entry is brought to 1."""
    scale = float(np.max(np.abs(matrix.astype(np.float64)))) or 1.0
    return np.linalg.svd((matrix.astype(np.float64) / scale).reshape(left, -1), compute_uv=False) * scale


def with_spectrum(rows: int, cols: int, values: np.ndarray, *, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    u, v = (np.linalg.qr(random.standard_normal((n, len(values))))[0] for n in (rows, cols))
    return ((u * values) @ v.T).astype(dtype)


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    rows, cols = draw(st.sampled_from([(12, 10), (1, 24), (24, 1), (7, 11), (36, 8), (16, 64), (48, 48)]))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    rank = draw(st.integers(0, min(rows, cols)))
    matrix = random.standard_normal((rows, rank)) @ random.standard_normal((rank, cols))
    dtype = draw(st.sampled_from(DTYPES))
    scale = 1.0 if dtype == "float16" else draw(st.sampled_from([1e-30, 1e-12, 1.0, 1e12, 1e30]))
    return (matrix * scale).astype(dtype)


@given(matrices(), st.sampled_from([1, 4, 1024]))
@settings(max_examples=30, deadline=None)
@example(np.zeros((6, 4), np.float32), 1024)
@example(np.eye(6)[:, :1] * 1e200, 1024)
@example(np.eye(6)[:, :3] * 1e-200, 1024)
@example(np.eye(6) * 1e-320, 1024)
def test_every_spectrum_is_that_of_the_svd(matrix: np.ndarray, limit: int) -> None:
    found = bond_spectra(matrix, divisors(matrix.size), limit=limit)
    assert list(found) == divisors(matrix.size)
    for left, spectrum in found.items():
        true = oracle(matrix, left)
        norm = float(np.hypot.reduce(true))
        assert (spectrum.left, spectrum.right, spectrum.complete) == (left, matrix.size // left, True)
        assert spectrum.norm == pytest.approx(norm, rel=1e-12)
        assert spectrum.floor <= 1e-6 * norm
        assert np.allclose(spectrum.values, true, rtol=0, atol=max(spectrum.floor, 1e-12 * norm))
        for rank in range(1, len(true) + 1):
            low, high = spectrum.bounds(rank)
            tail = float(np.hypot.reduce(true[rank:], initial=0.0))
            assert low <= tail * (1 + 1e-12) + 1e-15 * norm
            assert tail <= high * (1 + 1e-12) + 1e-15 * norm
            assert (rank == len(true)) <= (high == 0.0)


@given(
    decay=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    rank=st.sampled_from([1, 5, 60, 160]),
    size=st.sampled_from([(160, 200), (200, 160), (160, 160)]),
    dtype=st.sampled_from(["float32", "float64"]),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
)
@settings(max_examples=15, deadline=None)
def test_leading_values_are_bounds(decay: float, rank: int, size: tuple[int, int], dtype: str, scale: float) -> None:
    matrix = with_spectrum(*size, (1.0 + np.arange(rank)) ** -decay * scale, dtype=dtype)
    spectrum = bond_spectra(matrix, [size[0]], limit=40, top=8)[size[0]]
    true = oracle(matrix, size[0])
    norm = float(np.hypot.reduce(true))
    assert not spectrum.complete
    assert len(spectrum.values) == 8
    assert spectrum.norm == pytest.approx(norm, rel=1e-6)
    assert np.all(np.asarray(spectrum.values) <= true[:8] * (1 + 1e-5) + 1e-6 * norm)
    for kept in range(1, 9):
        low, high = spectrum.bounds(kept)
        assert low <= float(np.hypot.reduce(true[kept:])) <= high
    if decay >= 1.0:
        assert np.allclose(spectrum.values[:3], true[:3], rtol=1e-3, atol=spectrum.floor)


def test_what_a_low_rank_leaves_is_measured_not_subtracted() -> None:
    matrix = with_spectrum(160, 200, np.ones(5), dtype="float32")
    blocks = matrix_blocks.matrix_blocks(matrix)
    found = leading_values.leading_values(blocks, 160, 8)
    assert found.outside <= 1e-12 * blocks.energy  # a difference of energies in single would say 1e-7
    assert bond_spectra(matrix, [160], limit=40, top=8)[160].rank(1e-2 * blocks.norm) == 5


@pytest.mark.parametrize("position", [(0, 0), (150, 120)])
def test_one_entry_among_zeros(position: tuple[int, int]) -> None:
    matrix = np.zeros((160, 200), np.float32)
    matrix[position] = 3.0
    for limit in (40, 1024):
        spectrum = bond_spectra(matrix, [160], limit=limit, top=8)[160]
        assert spectrum.values[0] == pytest.approx(3.0, rel=1e-6)
        assert spectrum.tail(1) <= max(spectrum.floor, 1e-6)


def test_zeros_have_no_rest() -> None:
    spectrum = bond_spectra(np.zeros((160, 200), np.float32), [160], limit=40, top=8)[160]
    assert (spectrum.norm, spectrum.bounds(1), spectrum.rank(0.0)) == (0.0, (0.0, 0.0), 1)


def test_the_energy_of_single_precision_is_right() -> None:
    matrix = (np.random.default_rng(0).standard_normal((600, 700)) + 3).astype(np.float32)
    exact = float(np.linalg.norm(matrix.astype(np.float64)))
    for spectrum in bond_spectra(matrix, [24, 600, 4200], limit=40, top=8).values():
        assert spectrum.norm**2 == pytest.approx(exact**2, rel=1e-6)


def test_same_numbers_every_time() -> None:
    matrix = np.random.default_rng(0).standard_normal((160, 200)).astype(np.float32)
    assert bond_spectra(matrix, [8, 160], limit=40) == bond_spectra(matrix, [160, 8], limit=40)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_and_blocks_do_not_matter(dtype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((48, 60)).astype(dtype)
    expected = bond_spectra(matrix, divisors(matrix.size))
    matrix.tofile(tmp_path / "weight")
    mapped = np.memmap(tmp_path / "weight", dtype=dtype, mode="r", shape=(48, 60))
    apart = np.zeros((96, 180), dtype)
    apart[::2, ::3] = matrix
    monkeypatch.setattr(matrix_blocks, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(matrix_blocks, "_SUMMED", 100)
    for same in (mapped, np.asfortranarray(matrix), apart[::2, ::3], matrix.astype(matrix.dtype.newbyteorder())):
        found = bond_spectra(same, divisors(matrix.size))
        for left, spectrum in found.items():
            assert np.allclose(spectrum.values, expected[left].values, rtol=1e-9, atol=spectrum.floor)


def test_blocks_are_all_that_is_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.random.default_rng(0).standard_normal((1024, 2048)).astype(np.float32).tofile(tmp_path / "weight")
    mapped = np.memmap(tmp_path / "weight", dtype=np.float32, mode="r", shape=(1024, 2048))
    monkeypatch.setattr(matrix_blocks, "_BLOCK_BYTES", 1 << 20)
    tracemalloc.start()
    bond_spectra(mapped, [32, 1024, 32768], limit=128, top=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 7 << 20  # two megabytes of widened numbers at a time; the matrix has eight


def test_a_space_that_would_span_the_matrix_is_not_built() -> None:
    matrix = np.random.default_rng(0).standard_normal((60, 60)).astype(np.float32)
    assert bond_spectra(matrix, [60], limit=2, top=40)[60].complete


def test_refused() -> None:
    matrix = np.ones((4, 6))
    with pytest.raises(ShapeError, match="a left side of 5 does not divide the 24 entries of layer.weight"):
        bond_spectra(matrix, [5], name="layer.weight")
    with pytest.raises(ShapeError, match="limit must be an integer >= 1, got 0"):
        bond_spectra(matrix, [4], limit=0)
    with pytest.raises(ShapeError, match="top must be an integer >= 1, got 0"):
        bond_spectra(matrix, [4], top=0)
    with pytest.raises(ShapeError, match=r"must be a matrix with entries, got shape \(4,\)"):
        bond_spectra(np.ones(4), [4])
    with pytest.raises(ShapeError, match=r"got shape \(0, 4\)"):
        bond_spectra(np.ones((0, 4)), [1])
    with pytest.raises(BackendError, match="got int64: convert it"):
        bond_spectra(np.ones((4, 6), np.int64), [4])
    with pytest.raises(BackendError, match="got list"):
        bond_spectra([[1.0]], [1])
    with pytest.raises(ShapeError, match="beyond the range of float64"):
        bond_spectra(np.full((4, 6), 1e308), [4])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_entries_are_counted(dtype: str, value: float) -> None:
    matrix = np.ones((4, 6), dtype)
    matrix[2, 5] = matrix[3, 0] = value
    with pytest.raises(NonFiniteError, match=r"w of shape \(4, 6\) has 2 non-finite .* the first at \(2, 5\)"):
        bond_spectra(matrix, [4], name="w")


@given(st.floats(0.0, 1e300), st.sampled_from([round_up, round_down, to_digits]))
@example(9.999999, round_up)
@example(1.0000001, round_down)
@example(5e-324, round_up)
def test_rounding_is_outwards_and_done_once(number: float, rounding: object) -> None:
    found = rounding(number)
    assert rounding(found) == found
    assert found >= number or rounding is not round_up
    assert found <= number or rounding is not round_down
    if number > 1e-290:
        assert found == pytest.approx(number, rel=1.1e-4)


def test_a_rounded_spectrum_still_bounds() -> None:
    spectrum = BondSpectrum(8, 9, (2.123456, 1.123456), rest=0.1234567, rest_low=0.0234567, floor=1.234567e-5)
    rounded = spectrum.rounded()
    assert rounded == rounded.rounded()
    assert rounded.values == (2.1235, 1.1235)
    assert (rounded.rest, rounded.rest_low, rounded.floor) == (0.12346, 0.023456, 1.2346e-5)
    assert rounded.bounds(5)[0] == 0.0  # beyond what is known
    assert rounded.bounds(5)[1] >= 0.1234567
    assert rounded.rank(0.01) is None

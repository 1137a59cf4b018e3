"""Thick steps of TT-SVD: several bonds settled by one pass, in either direction, in the precision that suffices."""

import math
import tracemalloc

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import ttlib
from ttlib.cores.thick_step import expected_ranks
from ttlib.linalg import DRIVERS, compressions
from ttlib.linalg.eigen import leading_eigenpairs
from ttlib.ranks import clip_ranks
from ttlib.sweep_plan import group_length, starts_right
from ttlib.testing import TruncationRule

LIBRARIES = {"numpy": np.asarray, "torch": torch.from_numpy}


def textbook(tensor, shape, ranks):
    """TT-SVD by numpy's SVD, one bond after the other from the left: ranks capped, the error of the dense result."""
    rest, left, result = tensor.astype(np.result_type(tensor, np.float64)), 1, None
    for mode, rank in zip(shape[:-1], ranks, strict=True):
        u, s, vh = np.linalg.svd(rest.reshape(left * mode, -1), full_matrices=False)
        core = u[:, :rank].reshape(left, mode, -1)
        result = core[0] if result is None else np.tensordot(result, core, axes=1)
        rest, left = s[:rank, None] * vh[:rank], core.shape[-1]
    dense = (result.reshape(-1, left) @ rest).reshape(tensor.shape)
    return np.linalg.norm(dense - tensor) / np.linalg.norm(tensor)


def decaying(shape, dtype, *, rate=0.5, terms=10, seed=0):
    """A sum of random trains of rank 2, each *rate* times as large as the one before."""
    total = 0.0
    for k in range(terms):
        term = ttlib.random(shape, ranks=2, seed=seed + k).to_tensor()
        total = total + rate**k * term / np.linalg.norm(term)
    if np.issubdtype(dtype, np.complexfloating):
        total = total + 1j * total[::-1]
    return total.astype(dtype)


def error_of(tt, tensor):
    dense = np.asarray(tt.to_tensor()).astype(np.complex128).reshape(tensor.shape)
    return np.linalg.norm(dense - tensor) / np.linalg.norm(tensor.astype(np.complex128))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize(
    ("shape", "rank"), [((8, 8, 12, 8, 8), 5), ((2,) * 16, 7), ((4, 4, 4, 4, 4, 4, 4), 20), ((16, 16, 16, 16), 16)]
)
def test_the_error_at_given_ranks_is_that_of_the_textbook(library, dtype, shape, rank):
    rng, unit = np.random.default_rng(0), float(np.finfo(dtype).eps)
    for tensor in (rng.standard_normal(shape).astype(dtype), decaying(shape, dtype)):
        tt, report = ttlib.decompose(LIBRARIES[library](tensor), ranks=rank, return_report=True)
        expected = textbook(tensor, shape, tt.ranks[1:-1])
        assert tt.ranks == clip_ranks(shape, rank)
        assert error_of(tt, tensor) <= 1.001 * expected + 16 * unit
        assert report.relative_error == pytest.approx(error_of(tt, tensor), rel=0.01, abs=16 * unit)
        assert not report.from_right


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(2,) * 14, (6, 5, 4, 5, 6, 4), (40, 30, 20), (300, 3, 4, 5), (3, 4, 5, 300)]),
    rate=st.sampled_from([0.1, 0.4, 0.8]),
    exponent=st.floats(-6, -0.3),
    dtype=st.sampled_from([np.float32, np.float64, np.complex128]),
    driver=st.sampled_from(["auto", "gram", "qr", "sketch"]),
    seed=st.integers(0, 3),
)
def test_a_tolerance_is_kept_in_whatever_precision_its_ranks_were_found(shape, rate, exponent, dtype, driver, seed):
    eps, unit = 10.0**exponent, float(np.finfo(dtype).eps)
    tensor = decaying(shape, dtype, rate=rate, seed=seed)
    tt, report = ttlib.decompose(tensor, eps=eps, driver=driver, return_report=True)
    error = error_of(tt, tensor)
    assert error <= eps + 16 * unit
    assert report.tolerance_met
    assert report.relative_error == pytest.approx(error, rel=0.01, abs=32 * unit)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_a_large_first_mode_is_reached_from_the_right(dtype):
    tensor = decaying((2000, 6, 6, 5), dtype)
    tt, report = ttlib.decompose(tensor, eps=0.02, return_report=True)
    assert report.from_right
    assert report.ranks == tt.ranks
    assert tt.shape == report.shape == tensor.shape
    assert len(report.singular_values) == len(report.drivers) == len(report.reasons) == 3
    for core in tt.cores[1:]:
        flat = core.reshape(core.shape[0], -1)
        np.testing.assert_allclose(flat @ flat.conj().T, np.eye(len(flat)), atol=16 * np.finfo(dtype).eps)
    assert report.relative_error == pytest.approx(error_of(tt, tensor), rel=0.01)
    assert report.relative_error <= 0.02
    # the singular values at each bond are those of the unfolding, but for what was cut off before
    for bond, values in enumerate(report.singular_values, start=1):
        exact = np.linalg.svd(tensor.reshape(math.prod(tensor.shape[:bond]), -1), compute_uv=False)
        kept = tt.ranks[bond]
        np.testing.assert_allclose(values[:kept], exact[:kept], atol=0.02 * exact[0])
    assert not ttlib.decompose(tensor, ranks=5, return_report=True)[1].from_right


def test_batches_take_thick_steps_in_either_direction_and_share_their_ranks():
    for shape in ((2,) * 14, (3000, 4, 4, 4)):
        tensors = np.stack([decaying(shape, np.float32, seed=10 * k) * 10.0**k for k in range(3)])
        trains, reports = ttlib.decompose_batch(tensors, shape=shape, eps=0.02, return_report=True)
        assert len({tt.ranks for tt in trains}) == 1
        for tt, report, tensor in zip(trains, reports, tensors, strict=True):
            assert report.relative_error == pytest.approx(error_of(tt, tensor), rel=0.01)
            assert error_of(tt, tensor) <= 0.02


def test_single_precision_products_are_used_where_they_suffice_and_only_there():
    noisy = decaying((16, 16, 16, 16), np.float32) + 0.1 * np.random.default_rng(0).standard_normal((16,) * 4).astype(
        "f4"
    )
    words = {}
    for name, options in {
        "cap": {"ranks": 5},
        "0.1": {"eps": 0.1},
        "1e-3": {"eps": 1e-3},
        "1e-7": {"eps": 1e-7},
    }.items():
        words[name] = ttlib.decompose(noisy, return_report=True, **options)[1].reasons[0]
    assert "single precision" in words["cap"]
    assert "single precision" in words["0.1"]
    assert "double precision" in words["1e-3"]
    assert "QR" in words["1e-7"] or "SVD" in words["1e-7"]


def test_the_error_of_double_precision_data_has_all_its_digits_though_products_were_single():
    tensor = np.random.default_rng(0).standard_normal((128, 64, 16, 16))
    tt, report = ttlib.decompose(tensor, ranks=9, return_report=True)
    assert "single precision" in report.reasons[0]
    assert report.relative_error == pytest.approx(error_of(tt, tensor), rel=1e-12)


def test_where_far_less_is_lost_than_was_let_go_the_sweep_looks_closer():
    tensor = ttlib.random((16,) * 4, ranks=3, seed=0).to_tensor()
    for data, eps in ((tensor.astype(np.float32), 0.02), (tensor, 1e-6), (tensor, 0.02)):
        tt, report = ttlib.decompose(data, eps=eps, return_report=True)
        unit = float(np.finfo(data.dtype).eps)
        assert tt.ranks == (1, 3, 3, 3, 1)
        assert report.relative_error == pytest.approx(error_of(tt, data), rel=0.01, abs=64 * unit)
    noise = np.random.default_rng(0).standard_normal(tensor.shape)
    noisy = (tensor / np.linalg.norm(tensor) + 1e-4 * noise / np.linalg.norm(noise)).astype(np.float32)
    tt, report = ttlib.decompose(noisy, eps=0.02, return_report=True)
    assert report.relative_error == pytest.approx(error_of(tt, noisy), rel=0.01)
    assert 5e-5 < report.relative_error < 2e-4


def test_a_cap_above_the_rank_does_not_hide_the_rank_behind_noise():
    tensor = ttlib.random((16,) * 5, ranks=3, seed=0).to_tensor()
    for data in (tensor, tensor.astype(np.float32)):
        tt, report = ttlib.decompose(data, ranks=9, return_report=True)
        assert tt.ranks == (1, 3, 3, 3, 3, 1)
        assert report.relative_error <= 64 * np.finfo(data.dtype).eps


def test_a_group_that_keeps_most_of_its_rows_takes_more_modes():
    # 15 of the 16 rows of the first mode matter, which the sample of the columns, all zero, does not show
    tensor = np.zeros((16, 16, 64, 64), dtype=np.float32)
    tensor[:15, :, :, -1] = np.random.default_rng(0).standard_normal((15, 1, 64))
    tt, report = ttlib.decompose(tensor, eps=0.05, return_report=True)
    assert error_of(tt, tensor) <= 0.05
    assert report.ranks[1] >= 13


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e12, 1e30])
def test_scales_beyond_moderate_are_taken_out_first(library, scale):
    tensor = (decaying((4,) * 7, np.float64) * scale).astype(np.float32)
    tt, report = ttlib.decompose(LIBRARIES[library](tensor), ranks=4, return_report=True)
    reference = ttlib.decompose(decaying((4,) * 7, np.float64), ranks=4, return_report=True)[1]
    assert report.relative_error == pytest.approx(reference.relative_error, rel=1e-4)
    assert error_of(tt, tensor.astype(np.float64)) == pytest.approx(report.relative_error, rel=1e-3)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [{"ranks": 3}, {"eps": 1e-2}, {"eps": 1e-9}, {}])
def test_what_is_not_finite_is_found_wherever_it_hides(library, bad, options):
    tensor = np.random.default_rng(0).standard_normal((8, 8, 40, 8)).astype(np.float32)
    tensor[3, 2, 17, 5] = bad
    with pytest.raises(ttlib.NonFiniteError, match=r"1 non-finite value.*\(3, 2, 17, 5\)"):
        ttlib.decompose(LIBRARIES[library](tensor), **options)


def test_memory_beside_the_input_stays_below_half_of_it():
    for shape, rank in (((16,) * 5, 5), ((2,) * 20, 10), ((32,) * 4, 8)):
        tensor = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        ttlib.decompose(tensor, ranks=rank)
        tracemalloc.start()
        ttlib.decompose(tensor, ranks=rank)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 0.5 * tensor.nbytes + 4e6  # 4 MB of blocks, whatever the size


def test_inputs_are_read_only_and_may_lie_in_any_order():
    tensor = decaying((6, 7, 8, 9, 10), np.float32)
    for view in (tensor, np.asfortranarray(tensor), tensor[::-1][::-1], np.repeat(tensor, 2, axis=2)[:, :, ::2]):
        frozen = view.copy(order="K")
        view.flags.writeable = False
        tt = ttlib.decompose(view, ranks=4)
        np.testing.assert_array_equal(view, frozen)
        assert error_of(tt, tensor) == pytest.approx(error_of(ttlib.decompose(tensor, ranks=4), tensor), rel=1e-5)
    conjugated = torch.from_numpy(decaying((4,) * 6, np.complex64)).conj()
    assert error_of(ttlib.decompose(conjugated, eps=0.01), conjugated.resolve_conj().numpy()) <= 0.01


def test_a_sketch_is_certified_and_close_where_it_pays():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((600, 2000)).astype(np.float32)
    tt, report = ttlib.decompose(matrix, shape=(600, 40, 50), ranks=40, driver="sketch", return_report=True)
    assert report.drivers[0] == "sketch"
    assert report.relative_error == pytest.approx(error_of(tt, matrix), rel=1e-4)
    assert error_of(tt, matrix) <= 1.01 * textbook(matrix.reshape(600, 40, 50), (600, 40, 50), tt.ranks[1:-1])


@settings(max_examples=200, deadline=None)
@given(modes=st.lists(st.integers(1, 40), min_size=1, max_size=9), rank=st.integers(1, 50))
def test_groups_are_wide_and_no_shorter_than_asked(modes, rank):
    modes = tuple(modes)
    caps = clip_ranks(modes, rank)[1:]
    for least in (1, 2, 3):
        length = group_length(modes, 1, caps, least=least)
        assert length == 0 or least <= length < len(modes)
        if length:
            assert math.prod(modes[:length]) <= math.prod(modes[length:])
        else:
            wide = [k for k in range(least, len(modes)) if math.prod(modes[:k]) <= math.prod(modes[k:])]
            assert not wide
    assert starts_right(modes, caps) <= (group_length(modes[::-1], 1, (*caps[-2::-1], 1)) > 0)


def test_palindromes_start_from_the_left():
    for shape in ((8, 8, 12, 12, 8, 8), (2,) * 20, (16, 16)):
        full = clip_ranks(shape, math.prod(shape))
        assert not starts_right(shape, expected_ranks(full, full)[1:])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_every_way_to_compress_gives_the_same_cuts(dtype):
    tensor = decaying((6, 5, 4, 40), dtype).reshape(1, 120, 40)
    wide = np.concatenate([tensor, 1j * tensor if np.iscomplexobj(tensor) else tensor, tensor, tensor], axis=-1)
    values = np.linalg.svd(wide.reshape(6, -1), compute_uv=False)
    for way in compressions(DRIVERS["auto"], wide):
        columns = way.compress(wide)
        assert columns.rows == 120
        assert columns.energy[0] == pytest.approx(np.sum(np.abs(wide.astype(complex)) ** 2), rel=1e-5)
        cut = columns.cut(6, TruncationRule(3))
        np.testing.assert_allclose(cut.singular_values[0][:3], values[:3], rtol=1e-4)
        assert columns.in_basis(cut.basis).rows == 3 * 20
        # numbered the other way round, the last mode comes first
        mirrored = columns.reversed((4, 5, 6))
        last = np.moveaxis(wide.reshape(6, 5, 4, -1), 2, 0).reshape(4, -1)
        found = mirrored.cut(4, TruncationRule(4)).singular_values[0]
        np.testing.assert_allclose(found[:3], np.linalg.svd(last, compute_uv=False)[:3], rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_leading_eigenpairs_are_those_of_numpy_with_one_thread_or_more(dtype, threads, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((2, 200, 300)).astype(dtype)
    if dtype == np.complex128:
        factor = factor + 1j * rng.standard_normal(factor.shape)
    grams = factor @ factor.conj().mT
    pairs = leading_eigenpairs(grams, 20)
    energies = np.linalg.eigvalsh(grams)[:, ::-1]
    count = pairs.values.shape[-1]
    assert count == (20 if threads == "1" else 200)
    np.testing.assert_allclose(pairs.values**2, energies[:, :count], rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(pairs.residual, energies[:, count:].sum(axis=-1), rtol=1e-10, atol=1e-9)
    image = grams @ pairs.vectors
    np.testing.assert_allclose(image, pairs.vectors * pairs.values[:, None, :] ** 2, atol=1e-8)

"""The factors of right interfaces: Cholesky where it is as good as a QR, a QR where it is not, and the truth about it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ttlib
from tests.core.strategies import norm
from ttlib.cores.interfaces import right_interfaces
from ttlib.cores.rounding import tt_round
from ttlib.linalg import DRIVERS

DTYPES = ["float32", "float64", "complex64", "complex128"]
SHAPE = (6, 8, 8, 6)  # bonds of up to 6, 48 and 6
WIDE = (40, 4, 4, 40)  # bonds of up to 40, 160 and 40: the interface at the first bond has 640 columns at most


def unit(dtype):
    return float(np.finfo(dtype).eps)


def train(shape, rank, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    ranks = (1, *[rank] * (len(shape) - 1), 1)

    def draw(size):
        values = rng.standard_normal(size)
        return values + 1j * rng.standard_normal(size) if np.dtype(dtype).kind == "c" else values

    cores = [draw((ranks[k], n, ranks[k + 1])) / np.sqrt(n * ranks[k]) for k, n in enumerate(shape)]
    return ttlib.TensorTrain([core.astype(dtype) for core in cores])


def right_of(cores, bond):
    """The interface W (r, n…) right of a bond, contracted in double precision."""
    result = np.asarray(cores[-1], dtype=np.result_type(cores[-1].dtype, np.float64))
    for core in cores[-2 : bond - 1 : -1]:
        result = np.tensordot(core, result, axes=1)
    return result.reshape(result.shape[0], -1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_factor_of_cholesky_has_the_singular_values_of_its_interface(dtype):
    tt = train((4, 9, 9, 9, 4), 36, dtype)
    interfaces = right_interfaces([core[None] for core in tt.cores], every_digit=False)
    assert "Cholesky" in interfaces[0].reason
    for bond, interface in enumerate(interfaces, start=1):
        found = np.linalg.svd(interface.factors[0][0].astype(np.complex128), compute_uv=False)
        expected = np.linalg.svd(right_of(tt.cores, bond), compute_uv=False)
        scale = 2.0 ** int(interface.exponent[0])
        size = min(len(found), len(expected))
        relative = np.abs(found[:size] * scale - expected[:size]) / expected[0]
        assert relative.max() <= 50 * unit(dtype)
        assert interface.noise <= max(1e-9, 10 * unit(dtype))


def test_small_singular_values_keep_their_digits_for_rows_of_any_scale():
    """A gauge of 1e-6 to 1e6 on a bond changes no tensor, and no decision."""
    tt = train((4, 9, 9, 9, 4), 36)
    gauge = np.geomspace(1e-6, 1e6, 36)
    scaled = (tt.cores[0] * gauge, tt.cores[1] / gauge[:, None, None], *tt.cores[2:])
    interfaces = right_interfaces([core[None] for core in scaled], every_digit=False)
    assert "Cholesky" in interfaces[0].reason
    _, plain = tt.round(ranks=10, return_report=True)
    _, other = ttlib.TensorTrain(scaled).round(ranks=10, return_report=True)
    assert other.relative_error == pytest.approx(plain.relative_error, rel=1e-9)
    np.testing.assert_allclose(other.singular_values[1], plain.singular_values[1], rtol=1e-7)


def test_redundant_ranks_are_seen_and_left_to_qr():
    tt = train(SHAPE, 20)
    doubled, report = (tt + tt).round(return_report=True)
    assert not any("Cholesky" in reason for reason in report.reasons)
    assert any("by QR" in reason for reason in report.reasons)
    assert doubled.ranks == ttlib.clip_ranks(SHAPE, tt.ranks)
    assert report.relative_error <= 1e-14


def test_a_tolerance_of_zero_asks_for_every_digit():
    tt = train((4, 9, 9, 9, 4), 36)
    _, report = tt.round(eps=0.0, return_report=True)
    assert not any("Cholesky" in reason for reason in report.reasons)
    for k, values in enumerate(tt.singular_values(), start=1):
        dense = tt.to_tensor().reshape(int(np.prod(tt.shape[:k])), -1)
        expected = np.linalg.svd(dense, compute_uv=False)[: len(values)]
        np.testing.assert_allclose(values[: len(expected)], expected, atol=1e-13 * expected[0])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(-15, 0),
    st.sampled_from(DTYPES),
    st.sampled_from([SHAPE, (5, 9, 9, 5)]),
)
def test_reported_errors_are_true_however_nearly_redundant_the_ranks_are(seed, exponent, dtype, shape):
    """a + b - c with b and c apart by 10**exponent: the Gram matrix is anything from sound to singular."""
    a, b, difference = (train(shape, 16, dtype, seed + k) for k in range(3))
    total = a + b - (b + difference * 10.0**exponent)
    rounded, report = total.round(ranks=16, return_report=True)
    wide = np.result_type(dtype, np.float64)
    dense, ours = (ttlib.TensorTrain([core.astype(wide) for core in tt.cores]).to_tensor() for tt in (total, rounded))
    error = norm(ours - dense) / norm(dense)
    # what cancels in the sum is rounding to begin with: b is as large as a
    assert report.relative_error == pytest.approx(error, rel=0.01, abs=30 * unit(dtype))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(-7, -0.3), st.sampled_from(DTYPES))
def test_the_tolerance_is_kept_by_cholesky_and_qr(seed, exponent, dtype):
    tt = train(WIDE, 36, dtype, seed)
    weights = np.geomspace(1, 1e-8, 36).astype(tt.dtype)
    decaying = ttlib.TensorTrain((tt.cores[0] * weights, *tt.cores[1:-1], tt.cores[-1] * weights[:, None, None]))
    rounded, report = decaying.round(eps=10.0**exponent, return_report=True)
    wide = np.result_type(dtype, np.float64)
    dense, ours = (ttlib.TensorTrain([c.astype(wide) for c in t.cores]).to_tensor() for t in (decaying, rounded))
    error = norm(ours - dense) / norm(dense)
    assert report.tolerance_met
    assert error <= 10.0**exponent + 20 * unit(dtype)
    assert report.relative_error == pytest.approx(error, rel=0.01, abs=20 * unit(dtype))


def test_a_stack_of_trains_is_cut_as_its_members_are():
    members = [train((4, 9, 9, 9, 4), 36, seed=seed).cores for seed in range(3)]
    options = {"max_ranks": (1, 4, 20, 4, 1), "eps": None, "driver": DRIVERS["auto"], "dtype": np.float64}
    together = tt_round(members, **options)
    for (cores, report), member in zip(together, members, strict=True):
        ((alone, expected),) = tt_round([member], **options)
        assert report.relative_error == pytest.approx(expected.relative_error, rel=1e-9)
        ours, theirs = (ttlib.TensorTrain(c).to_tensor() for c in (cores, alone))
        np.testing.assert_allclose(ours, theirs, atol=1e-9 * norm(theirs))


@pytest.mark.parametrize("dtype", [*DTYPES, "float16", "bfloat16"])
def test_torch_trains_are_rounded_as_numpy_ones_and_stay_torch(dtype):
    kind = dtype if dtype in DTYPES else "float32"
    tt = train((4, 9, 9, 9, 4), 36, kind)
    like = torch.zeros(1, dtype=getattr(torch, dtype))
    ours = tt.to(like=like).round(ranks=10)
    assert {core.dtype for core in ours.cores} == {like.dtype}
    theirs = tt.round(ranks=10).to_tensor()
    tolerance = 3e-2 if dtype not in DTYPES else 100 * unit(dtype)
    assert norm(ours.to(dtype=kind).to_tensor().numpy() - theirs) <= tolerance * norm(theirs)


def test_conjugates_and_transposes_that_torch_has_put_off():
    tt = train((4, 9, 9, 4), 20, "complex128").to(like=torch.zeros(1, dtype=torch.complex128))
    lazy = ttlib.TensorTrain([core.conj() for core in tt.cores])
    assert lazy.cores[0].is_conj()
    np.testing.assert_allclose(lazy.round().to_tensor(), tt.to_tensor().conj().resolve_conj(), atol=1e-12)


@pytest.mark.parametrize("library", [np.array, torch.tensor])
def test_inputs_are_neither_written_to_nor_shared(library):
    rng = np.random.default_rng(0)
    cores = [library(rng.standard_normal(size)) for size in ((1, 6, 5), (5, 7, 5), (5, 6, 1))]
    before = [np.asarray(core).copy() for core in cores]
    for tt in (ttlib.TensorTrain(cores), ttlib.TensorTrain([library(rng.standard_normal((1, 4, 1)))])):
        rounded = tt.round(ranks=5)
        for core in rounded.cores:
            core[...] = 0
        assert tt.norm() > 0
    for core, kept in zip(cores, before, strict=True):
        np.testing.assert_array_equal(np.asarray(core), kept)


def test_read_only_and_strided_cores():
    wide = np.random.default_rng(0).standard_normal((2, 6, 7, 6))
    cores = (wide[0, :1, :, :].copy(), wide[1].transpose(2, 1, 0), wide[0, :, ::-1, :1])
    for core in cores:
        core.flags.writeable = False
    tt = ttlib.TensorTrain(cores)
    np.testing.assert_allclose(tt.round().to_tensor(), tt.to_tensor(), atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("driver", ["auto", "sketch"])
@pytest.mark.parametrize("library", [np.array, torch.tensor])
def test_what_is_not_finite_is_refused_by_name(value, driver, library):
    cores = [np.ones((1, 6, 30)), np.ones((30, 6, 30)), np.ones((30, 6, 1))]
    cores[1][2, 3, 4] = value
    tt = ttlib.TensorTrain([library(core) for core in cores])
    with pytest.raises(ttlib.NonFiniteError, match=r"core 1 of shape \(30, 6, 30\) has 1 non-finite"):
        tt.round(ranks=2, driver=driver)

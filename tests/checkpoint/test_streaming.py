"""Arrays that are read in blocks of rows: the same trains and errors as in memory, in little memory."""

import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import ttlib
from ttlib._blocks import RowBlocks, as_blocks
from ttlib.cores import streaming
from ttlib.cores.streaming import tt_svd_of_blocks
from ttlib.errors import BackendError, NonFiniteError, RankError, ShapeError
from ttlib.linalg import resolve_driver
from ttlib.ranks import clip_ranks
from ttlib.stream_plan import StreamPlan, stream_plans, useful_width

SHAPES = [(64, 48), (8, 8, 6, 8), (4, 4, 4, 2, 24), (2,) * 10 + (3,), (1, 64, 1, 48, 1)]


class Lazy:
    """What safetensors slices, h5py and zarr have in common."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.largest = 0

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        block = self._array[rows]
        self.largest = max(self.largest, block.size)
        return block


def matrix(decay, *, dtype=np.float64, rows=64, cols=48, seed=0):
    """A matrix with singular values 1, 2^-decay, 3^-decay, …."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((rows, rows)))
    right, _ = np.linalg.qr(rng.standard_normal((cols, cols)))
    short = min(rows, cols)
    found = left[:, :short] * (1.0 + np.arange(short)) ** -decay @ right[:short]
    return (found * (1 + 0.5j) if np.issubdtype(dtype, np.complexfloating) else found).astype(dtype)


def stream(source, shape, *, ranks=None, eps=None, block_bytes=4096, driver="auto", plan=None, memory=1 << 24):
    """Decompose in blocks whatever the size, by one plan or the one that is chosen."""
    blocks = as_blocks(source, block_bytes=block_bytes, read_whole=0)
    assert isinstance(blocks, RowBlocks)
    caps = clip_ranks(shape, blocks.size if ranks is None else ranks)
    with pytest.MonkeyPatch.context() as patch:
        if plan is not None:
            patch.setattr(streaming, "stream_plans", lambda *_, **__: (plan,))
        cores, report = tt_svd_of_blocks(
            blocks, shape, max_ranks=caps, eps=eps, driver=resolve_driver(driver), memory=memory
        )
    return ttlib.TensorTrain(cores), report


def true_error(array, train):
    wide = np.asarray(array).astype(np.complex128 if np.iscomplexobj(array) else np.float64)
    return np.linalg.norm(wide.ravel() - train.to_tensor().ravel()) / np.linalg.norm(wide)


def assert_left_orthogonal(train, tolerance):
    for core in train.cores[:-1]:
        tall = core.reshape(-1, core.shape[2])
        np.testing.assert_allclose(tall.conj().T @ tall, np.eye(tall.shape[1]), atol=tolerance)


@settings(max_examples=25)
@given(data=st.data())
def test_any_plan_and_block_keeps_the_tolerance_and_tells_the_error(data):
    shape = data.draw(st.sampled_from(SHAPES))
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.complex64, np.complex128]))
    array = matrix(data.draw(st.sampled_from([0.0, 0.5, 2.0])), dtype=dtype)
    split = data.draw(st.integers(1, len(shape) - 1))
    plan = StreamPlan(split, data.draw(st.sampled_from([0, 48])), is_leanest=True)
    eps = data.draw(st.sampled_from([None, 0.5, 0.1, 1e-3, 1e-5]))
    ranks = None if eps else data.draw(st.integers(1, 12))
    step = data.draw(st.sampled_from([1, 7, 20, 64])) * 48 * array.itemsize
    plan = StreamPlan(split, min(plan.width, int(np.prod(shape[split:])), int(np.prod(shape[:split]))), is_leanest=True)
    train, report = stream(Lazy(array), shape, ranks=ranks, eps=eps, block_bytes=step, plan=plan)
    unit = float(np.finfo(dtype).eps)
    error = true_error(array, train)
    assert report.relative_error == pytest.approx(error, rel=0.01, abs=100 * unit)
    assert report.ranks == train.ranks
    assert report.tolerance_met is (None if eps is None else True)
    assert eps is None or error <= eps * (1 + 1e-6) + 100 * unit
    assert_left_orthogonal(train, 1e3 * unit)
    assert train.cores[0].dtype == dtype


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("width", [0, None])
def test_capped_ranks_lose_within_one_per_cent_of_what_they_lose_in_memory(shape, decay, width):
    array = matrix(decay)
    sides = np.cumprod(shape)
    split = int(np.argmax(sides == 64)) + 1
    width = useful_width(6, 48) if width is None else width
    _, report = stream(Lazy(array), shape, ranks=6, plan=StreamPlan(split, width, is_leanest=True))
    _, expected = ttlib.decompose(array, shape=shape, ranks=6, return_report=True)
    # many small bonds inside the group share one range
    assert report.relative_error <= (1.01 if len(shape) < 10 else 1.02) * expected.relative_error


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.5, 0.75])
def test_flat_spectra_of_larger_matrices_are_within_one_per_cent_too(decay):
    array = matrix(decay, rows=512, cols=512, dtype=np.float32)
    plan = next(p for p in stream_plans((512, 512), (1, 30, 1), row=512, itemsize=4, memory=1 << 20))
    assert plan.width > 0
    _, report = stream(Lazy(array), (512, 512), ranks=30, plan=plan)
    best = np.sqrt(np.sum(np.arange(31.0, 513.0) ** (-2 * decay)) / np.sum(np.arange(1.0, 513.0) ** (-2 * decay)))
    assert report.relative_error <= 1.01 * best
    assert report.drivers == ("sketch",)


@pytest.mark.parametrize("driver", ["auto", "gram", "qr", "lapack", "sketch"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_exact_low_rank_array_is_found_exactly(driver, dtype):
    rng = np.random.default_rng(1)
    array = (rng.standard_normal((96, 3)) @ rng.standard_normal((3, 64))).astype(dtype)
    train, report = stream(Lazy(array), (8, 12, 8, 8), driver=driver)
    assert train.ranks == (1, 8, 3, 8, 1)
    assert true_error(array, train) <= 200 * np.finfo(dtype).eps
    assert report.relative_error <= 200 * np.finfo(dtype).eps


def test_a_range_looks_again_in_double_where_single_blurs_small_directions():
    array = matrix(4.0, dtype=np.float32, rows=128, cols=128)  # values fall to 1e-8
    best = np.linalg.norm(np.arange(13.0, 129.0) ** -4.0) / np.linalg.norm(np.arange(1.0, 129.0) ** -4.0)
    _, report = stream(Lazy(array), (128, 128), ranks=12, plan=StreamPlan(1, 28, is_leanest=True))
    assert report.relative_error == pytest.approx(best, rel=0.02)


def test_a_range_grows_until_it_holds_the_tolerance():
    array = matrix(0.5, rows=256, cols=256)
    train, report = stream(Lazy(array), (256, 256), eps=0.6, memory=3 << 19)
    assert report.drivers == ("sketch",)
    assert "space of 32 " not in report.reasons[0]
    assert report.tolerance_met
    assert true_error(array, train) <= 0.6


def test_a_tolerance_beyond_the_memory_is_refused_with_a_remedy():
    array = matrix(0.0, rows=256, cols=256)
    with pytest.raises(RankError, match=r"eps=0.01 asks for do not fit into the working memory of 0.5 MiB.*cap the"):
        stream(Lazy(array), (256, 256), eps=0.01, memory=1 << 19)
    with pytest.raises(RankError, match="an exact train asks for"):
        stream(Lazy(array), (256, 256), memory=1 << 19)


def test_a_cap_wins_over_the_tolerance():
    _, report = stream(Lazy(matrix(0.0)), (8, 8, 6, 8), eps=0.01, ranks=3)
    assert report.tolerance_met is False
    assert max(report.ranks) == 3


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("width", [0, 20])
def test_scales_beyond_the_squares_of_single_precision(scale, width):
    array = (matrix(1.0) * scale).astype(np.float32)
    train, report = stream(Lazy(array), (64, 48), ranks=5, plan=StreamPlan(1, width, is_leanest=True))
    assert report.relative_error == pytest.approx(true_error(array, train), rel=0.01)
    assert report.singular_values[0][0] == pytest.approx(scale, rel=1e-4)


def test_zeros_and_vectors():
    train, report = stream(Lazy(np.zeros((64, 48))), (8, 8, 48), eps=0.1)
    assert train.ranks == (1, 1, 1, 1)
    assert report.relative_error == 0.0
    vector = np.arange(12.0).reshape(4, 3)
    train, _ = stream(Lazy(vector), (12,))
    np.testing.assert_array_equal(train.to_tensor(), np.arange(12.0))


@pytest.mark.parametrize("width", [0, 20])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_values_are_counted_and_placed(value, width):
    array = matrix(1.0)
    array[40, 3] = array[50, 1] = value
    plan = StreamPlan(1, width, is_leanest=True)
    with pytest.raises(NonFiniteError, match=r"has 2 non-finite value\(s\).*in the block from row 40 on"):
        stream(Lazy(array), (64, 48), ranks=4, block_bytes=10 * 48 * 8, plan=plan)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8, np.int64])
def test_narrow_and_integer_dtypes(dtype):
    array = (matrix(1.0) * 100).astype(dtype)
    train, report = stream(Lazy(array), (64, 48), ranks=5)
    expected = {np.float16: np.float16, ml_dtypes.bfloat16: np.float32}.get(dtype, np.float64)
    assert train.cores[0].dtype == expected
    assert report.relative_error == pytest.approx(true_error(array.astype(np.float64), train), rel=0.02)


def test_safetensors_slices_of_both_frameworks(tmp_path, monkeypatch):
    monkeypatch.setitem(as_blocks.__kwdefaults__, "read_whole", 0)
    array = matrix(1.0, dtype=np.float32)
    save_file({"w": array, "half": array.astype(ml_dtypes.bfloat16)}, tmp_path / "w.safetensors")
    expected, _ = stream(Lazy(array), (8, 8, 6, 8), ranks=4)
    for framework in ("np", "pt"):
        with safe_open(tmp_path / "w.safetensors", framework) as file:
            train = ttlib.decompose(file.get_slice("w"), shape=(8, 8, 6, 8), ranks=4)
            half = ttlib.decompose(file.get_slice("half"), shape=(8, 8, 6, 8), ranks=4)
        np.testing.assert_allclose(train.to_tensor(), expected.to_tensor(), atol=1e-5)
        np.testing.assert_allclose(half.to_tensor(), expected.to_tensor(), atol=1e-2)


def test_small_lazy_arrays_are_read_whole_and_memory_maps_stay_what_they_are(tmp_path):
    array = matrix(1.0)
    lazy = Lazy(array)
    assert ttlib.decompose(lazy, shape=(8, 8, 48), ranks=4).ranks == (1, 4, 4, 1)
    assert lazy.largest == array.size
    path = tmp_path / "w"
    mapped = np.memmap(path, np.float64, "w+", shape=array.shape)
    mapped[:] = array
    read_only = np.memmap(path, np.float64, "r", shape=array.shape)
    ours, in_memory = ttlib.decompose(read_only, ranks=4), ttlib.decompose(array, ranks=4)
    np.testing.assert_array_equal(ours.to_tensor(), in_memory.to_tensor())


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_memory_map_keeps_its_own_shape_and_is_never_written(tmp_path, order):
    array = matrix(1.0)
    np.memmap(tmp_path / "w", np.float64, "w+", shape=array.shape, order=order)[:] = array
    mapped = np.memmap(tmp_path / "w", np.float64, "r", shape=array.shape, order=order)
    blocks = as_blocks(mapped, read_whole=0)
    assert blocks.shape == (64, 48)
    assert blocks.row == (1 if order == "C" else 48)
    train, report = stream(mapped, (64, 48), ranks=4)
    assert report.relative_error == pytest.approx(true_error(array, train), rel=0.01)
    np.testing.assert_array_equal(mapped, array)


def test_blocks_are_no_larger_than_asked():
    lazy = Lazy(matrix(1.0))
    stream(lazy, (64, 48), ranks=4, block_bytes=5 * 48 * 8)
    assert lazy.largest == 5 * 48


class Ragged(Lazy):
    def __getitem__(self, rows):
        return super().__getitem__(rows)[:, :-1]


class Changing(Lazy):
    def __getitem__(self, rows):
        block = super().__getitem__(rows)
        return block if rows.start == 0 else block.astype(np.float32)


def test_what_is_refused(monkeypatch):
    monkeypatch.setitem(as_blocks.__kwdefaults__, "read_whole", 0)
    monkeypatch.setitem(as_blocks.__kwdefaults__, "block_bytes", 4096)
    array = matrix(1.0)
    for source, error, match in [
        (Lazy(np.zeros((0, 4))), ShapeError, "holds no entries"),
        (Ragged(array), ShapeError, r"rows 0:1 of an array of shape \(64, 48\)"),
        (Changing(array), BackendError, "holds float32 where others hold float64"),
        (Lazy(array.astype("U8")), BackendError, "got dtype"),
        (Lazy(array > 0), BackendError, "got dtype bool"),
        (scipy.sparse.csr_matrix(array), BackendError, "expected arrays of one library"),
    ]:
        with pytest.raises(error, match=match):
            ttlib.decompose(source, ranks=3)
    with pytest.raises(ShapeError, match="the nearest shape"):
        ttlib.decompose(Lazy(array), shape=(8, 8, 47), ranks=3)
    with pytest.raises(RankError, match="a budget of 500 parameters.*give ranks or eps"):
        ttlib.decompose(Lazy(array), parameters=500)
    with pytest.raises(RankError, match="eps must be"):
        ttlib.decompose(Lazy(array), eps=2)


@given(
    shape=st.lists(st.integers(1, 40), min_size=2, max_size=6).map(tuple),
    rank=st.integers(1, 30),
    memory=st.integers(1, 1 << 22),
    guessed=st.booleans(),
)
def test_plans_have_a_split_inside_and_a_width_that_the_columns_allow(shape, rank, memory, guessed):
    caps = clip_ranks(shape, rank)
    plans = stream_plans(shape, caps, expected=caps if guessed else None, row=1, itemsize=4, memory=memory)
    assert guessed or plans
    for plan in plans:
        assert 1 <= plan.split < len(shape)
        assert plan.width <= np.prod(shape[plan.split :], dtype=int)


MEMORY = """
    import sys, threading, time
    import numpy as np, ttlib
    from ttlib import _blocks
    _blocks.as_blocks.__kwdefaults__["read_whole"] = 0
    def anonymous():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) // 1024
    rows, cols, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    mapped = np.memmap(path, np.float32, "r", shape=(rows, cols))
    ttlib.decompose(np.ones((64, 64), np.float32), ranks=2)  # loads what is loaded once
    before, peak, done = anonymous(), [0], threading.Event()
    def watch():
        while not done.wait(0.002):
            peak[0] = max(peak[0], anonymous())
    watcher = threading.Thread(target=watch)
    watcher.start()
    train, report = ttlib.decompose(mapped, shape=eval(sys.argv[4]), ranks=20, return_report=True)
    done.set()
    watcher.join()
    print(peak[0], peak[0] - before, report.relative_error)
"""


def peak_memory(tmp_path, rows, cols, shape):
    rng = np.random.default_rng(0)
    mapped = np.memmap(tmp_path / "w", np.float32, "w+", shape=(rows, cols))
    right = rng.standard_normal((10, cols), dtype=np.float32)
    for start in range(0, rows, 256):
        mapped[start : start + 256] = rng.standard_normal((256, 10), dtype=np.float32) @ right
        mapped[start : start + 256] += 0.1 * rng.standard_normal((256, cols), dtype=np.float32)
    mapped.flush()
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), str(rows), str(cols), str(tmp_path / "w"), repr(shape)],
        capture_output=True,
        text=True,
        check=True,
        timeout=500,
    )
    whole, more, error = found.stdout.split()
    assert 0 < float(error) < (0.2 if len(shape) == 2 else 1.0)  # ten directions of rows and columns, of no other cut
    return int(whole), int(more)


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@needs_proc
def test_a_file_of_64_mib_takes_less_than_its_size(tmp_path):
    _, more = peak_memory(tmp_path, 4096, 4096, (4096, 4096))
    assert more <= 48


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(16384, 16384), (128, 128, 128, 128)])
def test_a_file_of_one_gib_takes_at_most_256_mib(tmp_path, shape):
    whole, _ = peak_memory(tmp_path, 16384, 16384, shape)
    assert whole <= 256


def test_torch_tensors_go_on_as_before():
    array = torch.from_numpy(matrix(1.0))
    assert as_blocks(array) is array

"""Dask arrays: the same train as for the rows read in turn, without the whole array anywhere."""

import numpy as np
import pytest

import ttlib
from tests.checkpoint.test_streaming import Lazy, matrix, stream, true_error
from ttlib.errors import BackendError, NonFiniteError, ShapeError
from ttlib.stream_plan import StreamPlan

da = pytest.importorskip("dask.array")
import dask  # noqa: E402


@pytest.fixture(autouse=True, params=["synchronous", "threads"])
def scheduler(request):
    with dask.config.set(scheduler=request.param):
        yield


@pytest.mark.parametrize("chunks", [(64, 48), (7, 48), (64, 5), (9, 11), ((1, 63), (47, 1))])
@pytest.mark.parametrize("width", [0, 20])
def test_chunks_of_any_form_give_the_train_of_the_rows(chunks, width):
    array = matrix(1.0)
    plan = StreamPlan(2, width, is_leanest=True)
    train, report = stream(da.from_array(array, chunks=chunks), (8, 8, 6, 8), ranks=5, plan=plan)
    expected, expected_report = stream(Lazy(array), (8, 8, 6, 8), ranks=5, plan=plan)
    np.testing.assert_allclose(train.to_tensor(), expected.to_tensor(), atol=1e-10)
    assert report.relative_error == pytest.approx(expected_report.relative_error, rel=1e-6)
    assert isinstance(train.cores[0], np.ndarray)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128, np.int32, np.float16])
def test_decompose_takes_arrays_of_any_order(dtype):
    array = (100 * matrix(1.0, dtype=dtype if np.issubdtype(dtype, np.complexfloating) else np.float64)).astype(dtype)
    train, report = ttlib.decompose(
        da.from_array(array.reshape(4, 16, 48), chunks=(2, 5, 48)), eps=0.1, return_report=True
    )
    assert train.shape == (4, 16, 48)
    assert report.tolerance_met
    assert true_error(array, train) <= 0.1 * (1 + 1e-2)


def test_exact_factors_are_merged_in_a_tree():
    array = matrix(1.0)
    train, _ = stream(da.from_array(array, chunks=(5, 48)), (64, 48), driver="qr", block_bytes=48 * 8 * 5)
    assert true_error(array, train) <= 1e-13


def test_no_task_sees_more_than_a_block(monkeypatch):
    from ttlib import _blocks

    sizes, answer = [], _blocks._answer

    def watched(chunk, *rest):
        sizes.append(chunk.size)
        return answer(chunk, *rest)

    monkeypatch.setattr(_blocks, "_answer", watched)
    stream(da.from_array(matrix(1.0), chunks=(3, 48)), (64, 48), ranks=4, block_bytes=8 * 48 * 8)
    assert max(sizes) == 8 * 48


def test_what_is_refused():
    array = da.from_array(matrix(1.0), chunks=(7, 48))
    with pytest.raises(ShapeError, match="the nearest shape"):
        ttlib.decompose(array, shape=(8, 8, 47), ranks=3)
    with pytest.raises(ShapeError, match="compute_chunk_sizes"):
        ttlib.decompose(array[array[:, 0] > 0], ranks=3)
    with pytest.raises(ShapeError, match="holds no entries"):
        ttlib.decompose(array[:0], ranks=3)
    with pytest.raises(BackendError, match="got dtype bool"):
        ttlib.decompose(array > 0, ranks=3)
    with pytest.raises(NonFiniteError, match=r"has 3072 non-finite"):
        ttlib.decompose(array * np.nan, ranks=3)

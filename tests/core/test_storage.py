"""Files: bit for bit, the same bytes for the same train, and the first format for ever."""

import os
import stat
import subprocess
import sys
import types
from pathlib import Path

import array_api_strict
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

import ttlib
from tests.core.tensor_files import DTYPES, bits, make
from ttlib.storage import load, save
from ttlib.tensor_train import TensorTrain
from ttlib.tt_matrix import TTMatrix

DATA = Path(__file__).parent.parent / "data"
KINDS = {"tensor_train": TensorTrain, "tt_matrix": TTMatrix}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "train.safetensors"


def changed(core, how):
    """The same numbers, in an array that is laid out in another way."""
    if how == "read-only":
        core.flags.writeable = False
    if how == "transposed":
        axes = tuple(reversed(range(core.ndim)))
        core = np.ascontiguousarray(core.transpose(axes)).transpose(axes)
    if how == "strided":
        core = np.repeat(core, 2, axis=1)[:, ::2]
    return core


# Round trips


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_round_trip_is_bit_identical(file, kind, dtype, library):
    if (library, dtype) == ("numpy", "bfloat16"):
        pytest.skip("numpy has no bfloat16")
    tt = make(kind, dtype, library)
    save(file, tt)
    loaded = load(file, like=tt.cores[0])
    assert type(loaded) is KINDS[kind]
    assert (loaded.ranks, loaded.dtype, loaded.device) == (tt.ranks, tt.dtype, tt.device)
    assert bits(loaded) == bits(tt)
    assert all(type(core) is type(tt.cores[0]) for core in loaded.cores)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "bfloat16"])
def test_libraries_write_the_same_bytes(tmp_path, kind, dtype):
    for library in ("numpy", "torch"):
        save(tmp_path / library, make(kind, dtype, library))
    assert (tmp_path / "numpy").read_bytes() == (tmp_path / "torch").read_bytes()
    assert bits(load(tmp_path / "torch")) == bits(make(kind, dtype, "numpy"))


@pytest.mark.parametrize("how", ["read-only", "transposed", "strided"])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_the_layout_in_memory_does_not_matter(tmp_path, how, dtype):
    tt = make("tensor_train", dtype, "numpy")
    save(tmp_path / "a", tt)
    save(tmp_path / "b", TensorTrain([changed(core.copy(), how) for core in tt.cores]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_torch_tensors_with_a_graph_a_stride_or_a_pending_conjugation(tmp_path):
    core = torch.tensor(make("tensor_train", "complex64", "numpy").cores[0])[:, :, :1]
    half = make("tensor_train", "bfloat16", "torch").cores[0][:, :, :1]
    for k, (lazy, plain) in enumerate(
        [
            (core.conj(), core.conj().resolve_conj()),
            (core.conj().imag, core.conj().imag.resolve_neg()),
            (core.clone().requires_grad_(), core),
            (half.transpose(0, 2).contiguous().transpose(0, 2).requires_grad_(), half),
        ]
    ):
        save(tmp_path / f"lazy{k}", TensorTrain([lazy]))
        save(tmp_path / f"plain{k}", TensorTrain([plain]))
        assert (tmp_path / f"lazy{k}").read_bytes() == (tmp_path / f"plain{k}").read_bytes()


def test_zeros_keep_their_sign_and_small_numbers_their_bits(file):
    tt = TensorTrain([np.array([0.0, -0.0, 5e-324, -5e-324, 1.7e308]).reshape(1, 5, 1)])
    save(file, tt)
    assert bits(load(file)) == bits(tt)


def test_loaded_arrays_are_writable_and_their_own(file):
    save(file, make("tensor_train", "float32", "numpy"))
    first, second = load(file), load(file)
    first.cores[0][...] = 0
    assert second.cores[0].any()


def test_twelve_cores_keep_their_order(file):
    tt = TensorTrain([np.full((1, 2, 1), float(k)) for k in range(12)])
    save(file, tt)
    assert [core[0, 0, 0] for core in load(file).cores] == list(range(12))


def test_any_safetensors_reader_reads_the_cores(file):
    tt = make("tt_matrix", "float32", "numpy")
    save(str(file), tt)
    tensors = safetensors.numpy.load_file(file)
    assert [tensors[name].tobytes() for name in sorted(tensors)] == [core.tobytes() for core in tt.cores]


def test_other_array_libraries(file):
    tt = make("tensor_train", "float64", "numpy")
    save(file, TensorTrain([array_api_strict.asarray(core) for core in tt.cores]))
    loaded = load(file, like=array_api_strict.zeros(1))
    assert type(loaded.cores[0]).__module__.startswith("array_api_strict")
    assert bits(TensorTrain([np.asarray(core) for core in loaded.cores])) == bits(tt)


def test_bfloat16_of_numpy_extensions_and_jax(tmp_path):
    ml_dtypes, jax = pytest.importorskip("ml_dtypes"), pytest.importorskip("jax.numpy")
    save(tmp_path / "torch", make("tensor_train", "bfloat16", "torch"))
    tt = load(tmp_path / "torch", like=jax.zeros(1))
    assert tt.dtype == jax.bfloat16
    save(tmp_path / "jax", tt)
    save(tmp_path / "numpy", TensorTrain([np.asarray(core, ml_dtypes.bfloat16) for core in tt.cores]))
    assert (tmp_path / "torch").read_bytes() == (tmp_path / "jax").read_bytes() == (tmp_path / "numpy").read_bytes()


def test_a_library_that_would_round_is_refused(file):
    jax = pytest.importorskip("jax.numpy")
    save(file, make("tensor_train", "float64", "numpy"))
    with pytest.raises(ttlib.BackendError, match="of float64 jax made float32"):
        load(file, like=jax.zeros(1))


def test_the_interface_of_safetensors_before_0_8_writes_the_same_bytes(tmp_path, monkeypatch):
    def serialize(specs, metadata):
        arrays = {name: np.frombuffer(spec["data"], np.uint8) for name, spec in specs.items()}
        place = {name: {"data_ptr": array.ctypes.data, "data_len": array.size} for name, array in arrays.items()}
        tensors = {
            name: safetensors.TensorSpec(dtype=spec["dtype"], shape=spec["shape"], **place[name])
            for name, spec in specs.items()
        }
        return safetensors.serialize(tensors, metadata)

    if not hasattr(safetensors, "TensorSpec"):
        pytest.skip("this is safetensors before 0.8")
    tt = make("tt_matrix", "bfloat16", "torch")
    save(tmp_path / "new", tt)
    old = types.SimpleNamespace(serialize=serialize, deserialize=safetensors.deserialize)
    monkeypatch.setitem(sys.modules, "safetensors", old)
    save(tmp_path / "old", tt)
    assert (tmp_path / "new").read_bytes() == (tmp_path / "old").read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_has_the_permissions_of_a_new_file(file, umask):
    before = os.umask(umask)
    try:
        save(file, make("tensor_train", "float32", "numpy"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_first_format_load_for_ever(file, kind):
    stored = DATA / f"{kind}_v1.safetensors"
    loaded = load(stored)
    dtype, shapes = {
        "tensor_train": ("float32", [(1, 2, 2), (2, 3, 2), (2, 2, 1)]),
        "tt_matrix": ("complex128", [(1, 2, 1, 2), (2, 1, 3, 1)]),
    }[kind]
    numbers = iter(range(100))
    for core, shape in zip(loaded.cores, shapes, strict=True):
        values = [next(numbers) for _ in range(int(np.prod(shape)))]
        expected = np.array(values, dtype) * (1 - 0.5j if dtype == "complex128" else 0.5)
        np.testing.assert_array_equal(core, expected.astype(dtype).reshape(shape), strict=True)
    save(file, loaded)
    assert file.read_bytes() == stored.read_bytes()


# What cannot be saved


def test_nothing_but_trains_is_saved(file):
    with pytest.raises(ttlib.BackendError, match="takes a TensorTrain or TTMatrix, got ndarray"):
        save(file, np.ones((1, 2, 1)))
    assert not file.exists()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_train_that_is_not_finite_is_not_saved(file, dtype, value):
    save(file, make("tensor_train", "float32", "numpy"))
    before = file.read_bytes()
    tt = make("tensor_train", dtype, "torch")
    tt.cores[1][0, :2, 0] = complex(value, value) if "complex" in dtype else value
    with pytest.raises(ttlib.NonFiniteError, match="core 1 has 2 non-finite"):
        save(file, tt)
    assert file.read_bytes() == before


def test_more_cores_than_a_header_has_room_for(file):
    with pytest.raises(ttlib.TTFileError, match="cannot save .*header of .* merge neighbouring cores"):
        save(file, TensorTrain([np.ones((1, 1, 1), np.float16)] * 8000))
    assert not file.exists()


@pytest.mark.parametrize("path", ["a/b", "folder", "a\0b", "x" * 300, "/dev/full/x", ""])
def test_places_that_take_no_file(tmp_path, path):
    (tmp_path / "a").touch()
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ttlib.TTFileError, match="cannot save .* what was there is unchanged"):
        save(tmp_path / path, make("tensor_train", "float32", "numpy"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_device_is_not_replaced_by_a_file():
    with pytest.raises(ttlib.TTFileError, match="no place for a file"):
        save("/dev/null", make("tensor_train", "float32", "numpy"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("call", [lambda file: save(file, None), load])
def test_without_safetensors_the_error_says_what_to_install(file, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        call(file)


def test_importing_the_library_does_not_import_safetensors():
    script = "import sys, ttlib, ttlib.storage, ttlib.interop; assert not {'safetensors', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=DATA.parent.parent)

"""Files are byte for byte what safetensors writes, whole or not there, and one tensor at a time is in memory."""

import signal
import subprocess
import sys
import weakref

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint import files
from tests.checkpoint.test_reader import checkpoints, made
from ttlib.checkpoint.numbers import narrow, widen
from ttlib.checkpoint.reader import open_checkpoint
from ttlib.checkpoint.writer import TensorSpec, write_safetensors
from ttlib.errors import BackendError, NonFiniteError, ShapeError, TTFileError

CODES = {"float": "F", "int": "I", "uint": "U"}


def spec_of(name, array):
    kind = array.dtype.name.rstrip("0123456789")
    return TensorSpec(name, f"{CODES[kind]}{8 * array.itemsize}", array.shape)


def specs_of(tensors):
    return [spec_of(name, array) for name, array in tensors.items()]


@pytest.fixture
def path(tmp_path):
    return files.single_file(tmp_path / "model.safetensors", {"old": np.arange(3)})


@pytest.fixture
def refused(path):
    """Assert that a write is refused and leaves the old file, and nothing beside it."""

    def refused(error, match, specs, tensors, **options):
        old = path.read_bytes()
        with pytest.raises(error, match=match):
            write_safetensors(path, specs, tensors, **options)
        assert path.read_bytes() == old
        assert list(path.parent.iterdir()) == [path]

    return refused


@settings(max_examples=30)
@given(specs=checkpoints, seed=st.integers(0, 99), metadata=st.dictionaries(st.text(max_size=5), st.text(), max_size=1))
def test_a_file_is_byte_for_byte_that_of_safetensors(specs, seed, metadata, tmp_path_factory):
    path, tensors = tmp_path_factory.getbasetemp() / "written.safetensors", made(specs)
    shuffled = [list(tensors.items())[k] for k in np.random.default_rng(seed).permutation(len(tensors))]
    write_safetensors(path, specs_of(tensors), iter(shuffled), metadata=metadata)
    assert path.read_bytes() == safetensors.numpy.save(tensors, metadata or None)


def test_bfloat16_is_that_of_torch(path):
    weight = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    write_safetensors(path, [TensorSpec("w", "BF16", (50, 7))], [("w", weight.numpy())])
    assert path.read_bytes() == safetensors.torch.save({"w": weight.bfloat16()})


def test_rounding_to_bfloat16_is_to_nearest_and_to_even():
    rng = np.random.default_rng(0)
    # All upper halves, with lower halves around the middle between two neighbours and at random.
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, rng.integers(0, 1 << 16, 1 << 16)):
        bits = (np.arange(1 << 16, dtype=np.uint32) << 16) + np.asarray(lower, np.uint32)
        numbers = bits.view(np.float32)
        words = narrow(numbers)
        with np.errstate(invalid="ignore"):
            expected = numbers.astype(ml_dtypes.bfloat16)
        is_nan = np.isnan(numbers)
        assert np.array_equal(words[~is_nan], expected.view(np.uint16)[~is_nan])
        assert np.isnan(widen(words)[is_nan]).all()
        assert words.dtype == np.uint16


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_arrays_of_any_memory_layout_are_written(path, dtype):
    plain = np.arange(24, dtype=np.float32).reshape(4, 6)
    read_only = plain.copy()
    read_only.flags.writeable = False
    variants = [read_only, np.asfortranarray(plain), plain[::-1][::-1], np.repeat(plain, 2, axis=1)[:, ::2]]
    if dtype == "F32":
        variants.append(plain.astype(">f4"))
    for variant in variants:
        write_safetensors(path, [TensorSpec("w", dtype, (4, 6))], [("w", variant)])
        assert np.array_equal(open_checkpoint(path).array("w"), plain)


def test_a_tensor_larger_than_a_piece_is_written(path, monkeypatch):
    monkeypatch.setattr("ttlib.checkpoint.writer._PIECE_BYTES", 1 << 10)
    weight = np.random.default_rng(0).standard_normal((101, 60)).astype(np.float32)
    write_safetensors(
        path,
        [TensorSpec("b", "BF16", weight.shape), TensorSpec("f", "F32", weight.shape)],
        [("f", weight), ("b", weight)],
    )
    checkpoint = open_checkpoint(path)
    assert np.array_equal(checkpoint.array("f"), weight)
    assert np.array_equal(checkpoint.array("b"), widen(narrow(weight)))


def test_a_checkpoint_is_copied_with_dtypes_that_numpy_has_not(tmp_path):
    numbers = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    tensors = {str(dtype): numbers.to(dtype) for dtype in (torch.float8_e5m2, torch.bfloat16, torch.float64)}
    tensors |= {"flags": numbers > 0, "scalar": torch.tensor(3.0), "none": torch.empty(0, 5)}
    checkpoint = open_checkpoint(files.torch_file(tmp_path / "source.safetensors", tensors))
    specs = [TensorSpec(name, entry.dtype, entry.shape) for name, entry in checkpoint.entries.items()]
    copy = tmp_path / "new" / "copy.safetensors"
    write_safetensors(copy, specs, ((name, checkpoint.raw(name)) for name in checkpoint.entries))
    assert copy.read_bytes() == checkpoint.path.read_bytes()


def test_raw_bytes_of_any_memory_layout_are_written(path):
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for raw in (bytes(rows), memoryview(rows), memoryview(np.asfortranarray(rows))):
        write_safetensors(path, [TensorSpec("w", "F8_E4M3", (3, 4))], [("w", raw)])
        assert bytes(open_checkpoint(path).raw("w")) == bytes(rows)


def test_one_tensor_is_in_memory_at_a_time(path):
    alive = []

    def tensors():
        for k in range(4):
            assert not any(reference() is not None for reference in alive)
            array = np.full((3, 3), float(k))
            alive.append(weakref.ref(array))
            yield f"w{k}", array
            del array

    write_safetensors(path, [TensorSpec(f"w{k}", "F64", (3, 3)) for k in range(4)], tensors())
    assert open_checkpoint(path).array("w3")[0, 0] == 3


W = TensorSpec("w", "F32", (2, 3))


@pytest.mark.parametrize(
    ("error", "match", "specs", "tensors"),
    [
        (BackendError, "float64", [W], [("w", np.ones((2, 3)))]),
        (BackendError, "came as list", [W], [("w", [1.0])]),
        (BackendError, "give float32 numbers", [TensorSpec("w", "BF16", (3,))], [("w", np.ones(3, np.float16))]),
        (BackendError, "its bytes", [TensorSpec("w", "F8_E4M3", (3,))], [("w", np.ones(3, np.uint8))]),
        (BackendError, "'F33', safetensors has BOOL", [TensorSpec("w", "F33", (3,))], []),
        (ShapeError, r"\(3, 2\), its spec \(2, 3\)", [W], [("w", np.ones((3, 2), np.float32))]),
        (ShapeError, "came with 23 bytes, its spec has 24", [W], [("w", b"0" * 23)]),
        (ShapeError, "integers >= 0", [TensorSpec("w", "F32", (-1,))], []),
        (ShapeError, "integers >= 0", [TensorSpec("w", "F32", (True,))], []),
        (ShapeError, "whole bytes", [TensorSpec("w", "F4", (3,))], []),
        (TTFileError, "1 of 1 tensors never came, such as 'w'", [W], []),
        (TTFileError, "'v' has no spec", [W], [("v", b"0" * 24)]),
        (TTFileError, "'w' came before", [W], [("w", b"0" * 24)] * 2),
        (TTFileError, "'w' is taken", [W, W], []),
        (TTFileError, "'__metadata__' is taken", [TensorSpec("__metadata__", "F32", ())], []),
        (TTFileError, "valid text", [TensorSpec("\ud800", "F32", ())], []),
    ],
)
def test_what_does_not_agree_with_its_spec_is_refused(refused, error, match, specs, tensors):
    refused(error, match, specs, iter(tensors))


def test_metadata_and_headers_that_nobody_could_read_are_refused(refused, monkeypatch):
    refused(TTFileError, "valid text", [], [], metadata={"a": object()})
    monkeypatch.setattr("ttlib.checkpoint.writer.LARGEST_HEADER", 10)
    refused(TTFileError, "safetensors reads 10 at most", [W], [])


def test_an_error_on_the_way_leaves_the_old_file(refused):
    def tensors():
        yield "w", np.ones((2, 3), np.float32)
        msg = "NaN in layer 3"
        raise NonFiniteError(msg)

    refused(NonFiniteError, "NaN in layer 3", [W, TensorSpec("v", "F32", ())], tensors())


def test_a_checkpoint_is_rewritten_in_its_own_place(path):
    checkpoint = open_checkpoint(path)
    specs = [TensorSpec(name, entry.dtype, entry.shape) for name, entry in checkpoint.entries.items()]
    write_safetensors(path, specs, ((name, checkpoint.array(name)) for name in checkpoint.entries))
    assert open_checkpoint(path).array("old").tolist() == [0, 1, 2]


def test_places_where_no_file_can_be(tmp_path):
    for path in (tmp_path / "a\0b", tmp_path / ("x" * 300), tmp_path / "file" / "model.safetensors"):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(TTFileError, match="cannot write"):
            write_safetensors(path, [], [])


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from ttlib.checkpoint.writer import TensorSpec, write_safetensors
from ttlib.errors import TTFileError
path = Path(sys.argv[1])
old = path.read_bytes()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
specs = [TensorSpec(f"w{k}", "F32", (100, 100)) for k in range(5)]
for limit in range(0, 200_000, 10_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_safetensors(path, specs, ((spec.name, np.ones(spec.shape, np.float32)) for spec in specs))
    except TTFileError as error:
        assert "File too large" in str(error) and str(path) in str(error), error
    else:
        raise AssertionError(limit)
    assert path.read_bytes() == old and list(path.parent.iterdir()) == [path]
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on file sizes")
def test_a_full_disk_leaves_the_old_file(path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""Checkpoints are read as safetensors and gguf read them, and what is damaged costs no more than itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint import files
from ttlib.checkpoint.entries import DTYPES, QUANTISED, TensorEntry
from ttlib.checkpoint.reader import open_checkpoint
from ttlib.errors import ShapeError, TTFileError

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
checkpoints = st.dictionaries(st.text(max_size=8), st.tuples(st.sampled_from(files.DTYPES), shapes), max_size=5)


def made(specs):
    """Arrays of the dtypes and shapes of *specs*, of random bytes."""
    rng = np.random.default_rng(0)
    return {
        name: np.frombuffer(rng.bytes(np.dtype(dtype).itemsize * int(np.prod(shape))), dtype).reshape(shape)
        for name, (dtype, shape) in specs.items()
        if name != "__metadata__"
    }


def write(path, content):
    path.write_bytes(content)
    return path


def kinds(checkpoint):
    return sorted((fault.kind, fault.subject) for fault in checkpoint.faults)


# One file


@settings(max_examples=30)
@given(specs=checkpoints)
def test_every_dtype_and_shape_is_read_as_safetensors_reads_it(specs, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "all.safetensors"
    tensors = made(specs)
    safetensors.numpy.save_file(tensors, path, {"format": "np"})
    if not tensors:
        with pytest.raises(TTFileError, match="holds no tensor"):
            open_checkpoint(path)
        return
    checkpoint = open_checkpoint(path, strict=True)
    assert checkpoint.entries.keys() == tensors.keys()
    for name, expected in tensors.items():
        found, entry = checkpoint.array(name), checkpoint.entries[name]
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape == entry.shape
        assert found.tobytes() == expected.tobytes() == bytes(checkpoint.raw(name))
        assert entry.nbytes == expected.nbytes
        assert entry.parameters == expected.size
        assert type(found) is np.ndarray
        assert not found.flags.writeable
    begins = [entry.begin for entry in checkpoint.entries.values()]
    assert begins == sorted(begins)
    assert checkpoint.metadata() == {"format": "np"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_row_blocks_join_to_the_matrix(tmp_path, dtype):
    weight = torch.randn(23, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    checkpoint = open_checkpoint(files.torch_file(tmp_path / "model.safetensors", {"w": weight}))
    wide = np.float64 if dtype is torch.float64 else np.float32
    expected = weight.to(torch.float64).numpy().astype(wide)
    for options in ({}, {"rows": 1}, {"rows": 5}, {"rows": 23}, {"rows": 99}, {"block_bytes": 1}, {"block_bytes": 200}):
        blocks = list(checkpoint.blocks("w", **options))
        assert all(block.dtype == wide and not block.flags.writeable for block in blocks)
        assert np.array_equal(np.concatenate(blocks), expected)
    assert [len(block) for block in checkpoint.blocks("w", rows=10)] == [10, 10, 3]
    assert np.array_equal(checkpoint.array("w").astype(wide), expected)


def test_every_bfloat16_becomes_the_float32_of_the_same_value(tmp_path):
    words = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    path = files.torch_file(tmp_path / "all.safetensors", {"w": words.view(torch.bfloat16).reshape(256, 256)})
    found = open_checkpoint(path).array("w")
    expected = words.view(torch.bfloat16).float().numpy().reshape(256, 256)
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))  # NaN too


def test_numbers_at_odd_addresses_are_read(tmp_path):
    header = {
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "b": {"dtype": "F32", "shape": [2, 2], "data_offsets": [3, 19]},
    }
    numbers = np.arange(4, dtype=np.float32).reshape(2, 2)
    checkpoint = open_checkpoint(write(tmp_path / "m.safetensors", files.pack(header, b"abc" + numbers.tobytes())))
    assert np.array_equal(checkpoint.array("b"), numbers)
    assert np.array_equal(np.concatenate(list(checkpoint.blocks("b", rows=1))), numbers)


def test_entries_tell_matrices_of_real_numbers_from_the_rest(tmp_path):
    def entry(dtype, shape):
        return TensorEntry("w", dtype, shape, tmp_path, 0, 0)

    assert entry("BF16", (2, 3)).is_matrix
    assert not entry("BF16", (2, 1)).is_matrix
    assert not entry("F32", (2, 3, 4)).is_matrix
    assert not entry("F32", ()).is_matrix
    assert [dtype for dtype in DTYPES if entry(dtype, (2, 2)).is_floating] == ["F16", "BF16", "F32", "F64"]
    assert {d for d in DTYPES if not entry(d, (2, 2)).is_readable} == {
        d for d in DTYPES if d.startswith(("F4", "F6_", "F8_"))
    }


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs RssAnon")
def test_a_pass_over_a_large_matrix_takes_the_memory_of_a_block(tmp_path):
    paths = [
        files.sparse_file(tmp_path / f"{dtype}.safetensors", (1 << 13, 1 << 11), dtype) for dtype in ("F32", "BF16")
    ]
    script = """
import sys
from ttlib.checkpoint.reader import open_checkpoint
def anonymous():
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) * 1024
for path in sys.argv[1:]:
    checkpoint, before, most = open_checkpoint(path), anonymous(), 0
    for block in checkpoint.blocks("weight", block_bytes=1 << 21):
        assert not block.any()
        most = max(most, anonymous())
    print(most - before)
"""
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
    assert max(map(int, done.stdout.split())) < 12 << 20  # of 64 MiB


# Headers that are wrong

GOOD = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "I8", "shape": [4], "data_offsets": [8, 12]},
}
WRONG = {
    "no length": b"1234567",
    "length beyond the file": (99).to_bytes(8, "little") + b"{}",
    "length of 2^64 - 1": b"\xff" * 8 + b"{}",
    "not JSON": files.pack("{'a'}"),
    "not UTF-8": (4).to_bytes(8, "little") + b'{"\xff}',
    "a list": files.pack("[]"),
    "leading space": files.pack(" {}"),
    "deep": files.pack('{"a":' + "[" * 200_000),
    "a name twice": files.pack('{"a":{"dtype":"I8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}'),
    "NaN": files.pack('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', b"1234"),
    "metadata of numbers": files.pack({**GOOD, "__metadata__": {"a": 1}}, b"0" * 12),
    "an entry that is a list": files.pack({"a": []}),
    "no dtype": files.pack({"a": {"shape": [2], "data_offsets": [0, 8]}}, b"0" * 8),
    "dtype 4": files.pack({"a": {"dtype": 4, "shape": [2], "data_offsets": [0, 8]}}, b"0" * 8),
    "shape true": files.pack({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"0" * 4),
    "shape -2": files.pack({"a": {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]}}, b"0" * 8),
    "shape 1.5": files.pack({"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 6]}}, b"0" * 6),
    "shape 10^30": files.pack({"a": {"dtype": "F32", "shape": [10**30, 0], "data_offsets": [0, 0]}}),
    "65 axes": files.pack({"a": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}}, b"0" * 4),
    "three offsets": files.pack({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}, b"0" * 4),
    "offsets that fall": files.pack({"a": {"dtype": "F32", "shape": [0], "data_offsets": [4, 0]}}, b"0" * 4),
    "shape and offsets": files.pack({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"0" * 8),
    "half a byte": files.pack({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, b"0"),
    "overlap": files.pack({**GOOD, "c": {"dtype": "I8", "shape": [2], "data_offsets": [10, 12]}}, b"0" * 12),
    "gap": files.pack({"a": GOOD["a"], "b": {"dtype": "I8", "shape": [4], "data_offsets": [9, 13]}}, b"0" * 13),
    "late start": files.pack({"a": {"dtype": "I8", "shape": [4], "data_offsets": [1, 5]}}, b"0" * 5),
    "bytes of nobody": files.pack(GOOD, b"0" * 13),
    "no tensor": files.pack({}),
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_header_that_is_wrong_is_refused(tmp_path, case):
    path = write(tmp_path / "wrong.safetensors", WRONG[case])
    with pytest.raises(TTFileError, match=r"wrong\.safetensors"):
        open_checkpoint(path)


def test_a_header_of_more_than_100_megabytes_is_refused_before_it_is_read(tmp_path):
    path = write(tmp_path / "long.safetensors", (100_000_001).to_bytes(8, "little") + b"{")
    with path.open("r+b") as file:
        file.truncate(1 << 28)
    with pytest.raises(TTFileError, match="claims 100000001 bytes, at most 100000000"):
        open_checkpoint(path)


def test_a_random_accident_to_the_header_is_refused_wherever_safetensors_refuses_it(tmp_path):
    whole = files.single_file(tmp_path / "m.safetensors").read_bytes()
    length, rng, accepted = 8 + int.from_bytes(whole[:8], "little"), np.random.default_rng(0), 0
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 3)):
            content[rng.integers(length)] ^= 1 << rng.integers(8)
        path = write(tmp_path / "m.safetensors", bytes(content))
        try:
            theirs = dict(safetensors.deserialize(bytes(content)))
        except safetensors.SafetensorError:
            with pytest.raises(TTFileError):
                open_checkpoint(path, strict=True)
        else:
            ours = open_checkpoint(path)
            assert ours.entries.keys() == theirs.keys()
            assert all(bytes(ours.raw(name)) == theirs[name]["data"] for name in theirs)
            accepted += 1
    assert 0 < accepted < 200


def test_a_file_cut_anywhere_keeps_the_tensors_that_are_whole(tmp_path):
    path = files.single_file(tmp_path / "m.safetensors")
    whole, tensors = path.read_bytes(), files.weights()
    ends = {entry.name: entry.end for entry in open_checkpoint(path).entries.values()}
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        write(path, whole[:length])
        intact = {name for name, end in ends.items() if end <= length}
        with pytest.raises(TTFileError):
            open_checkpoint(path, strict=True)
        if not intact:
            with pytest.raises(TTFileError):
                open_checkpoint(path)
            continue
        checkpoint = open_checkpoint(path)
        assert checkpoint.entries.keys() == intact
        assert kinds(checkpoint) == sorted(("cut off", name) for name in ends.keys() - intact)
        assert all(np.array_equal(checkpoint.array(name), tensors[name]) for name in intact)


# Several files


def test_a_sharded_folder_is_read_in_the_order_of_its_files(tmp_path):
    folder = files.sharded_folder(tmp_path / "model")
    for path in (folder, str(folder), folder / "model.safetensors.index.json"):
        checkpoint = open_checkpoint(path, strict=True)
        tensors = files.weights()
        assert checkpoint.entries.keys() == tensors.keys()
        assert all(np.array_equal(checkpoint.array(name), tensors[name]) for name in tensors)
        places = [(entry.file.name, entry.begin) for entry in checkpoint.entries.values()]
        assert places == sorted(places)
        assert checkpoint.metadata() == {"format": "pt"}
    assert "7 tensor(s)" in repr(checkpoint)
    assert "fault" not in repr(checkpoint)


@pytest.fixture
def folder(tmp_path):
    return files.sharded_folder(tmp_path / "model")


def shard(folder, k):
    return folder / f"model-{k:05}-of-00003.safetensors"


def lost(folder, k):
    return {name for name, home in files.read_index(folder).items() if home == shard(folder, k).name}


def survives(folder, expected):
    """Open the folder, check the faults and that all other tensors are right, and that *strict* refuses it."""
    checkpoint, tensors = open_checkpoint(folder), files.weights()
    assert kinds(checkpoint) == sorted(expected)
    for name in checkpoint.entries:
        assert np.array_equal(checkpoint.array(name), tensors[name])
    assert "fault(s)" in repr(checkpoint)
    with pytest.raises(TTFileError, match="cannot use the checkpoint"):
        open_checkpoint(folder, strict=True)
    return checkpoint


def test_a_missing_shard_costs_its_tensors(folder):
    shard(folder, 2).unlink()
    gone = lost(folder, 2)
    checkpoint = survives(
        folder, [("missing file", shard(folder, 2).name), *(("missing tensor", name) for name in gone)]
    )
    assert checkpoint.entries.keys() == files.weights().keys() - gone


def test_a_damaged_shard_costs_its_tensors(folder):
    shard(folder, 3).write_bytes(b"version https://git-lfs.github.com/spec/v1")
    gone = lost(folder, 3)
    survives(folder, [("damaged file", shard(folder, 3).name), *(("missing tensor", name) for name in gone)])


def test_a_truncated_shard_costs_what_is_cut_off(folder):
    last = list(open_checkpoint(shard(folder, 1)).entries)[-1]
    files.cut(shard(folder, 1), 1)
    checkpoint = survives(folder, [("cut off", last)])
    assert checkpoint.entries.keys() == files.weights().keys() - {last}
    assert last in checkpoint.faults[0].message
    assert shard(folder, 1).name in checkpoint.faults[0].message


def test_an_index_that_names_a_tensor_of_no_file(folder):
    files.write_index(folder, {**files.read_index(folder), "ghost": shard(folder, 1).name})
    survives(folder, [("missing tensor", "ghost")])


def test_an_index_that_names_the_wrong_file_or_none(folder):
    homes = files.read_index(folder)
    first, second = list(homes)[:2]
    homes.pop(first)
    homes[second] = shard(folder, 3).name
    files.write_index(folder, homes)
    checkpoint = survives(folder, [("wrong index", first), ("wrong index", second)])
    assert checkpoint.entries.keys() == files.weights().keys()


def test_of_two_tensors_with_one_name_the_index_chooses(folder):
    homes, tensors = files.read_index(folder), files.weights()
    twice = next(name for name, home in homes.items() if home == shard(folder, 2).name)
    stale = {name: tensors[name] for name in lost(folder, 1)} | {twice: np.zeros((2, 2), np.float32)}
    files.single_file(shard(folder, 1), stale)
    checkpoint = survives(folder, [("duplicate name", twice)])
    assert checkpoint.entries[twice].file == shard(folder, 2)


def test_a_dtype_that_nobody_can_read_is_named_and_can_be_copied(tmp_path):
    eight = torch.arange(6).reshape(2, 3).to(torch.float8_e4m3fn)
    path = files.torch_file(tmp_path / "m.safetensors", {"a": eight, "b": torch.ones(2, 2)})
    checkpoint = open_checkpoint(path)
    assert kinds(checkpoint) == [("unknown dtype", "a")]
    assert "F8_E4M3" in checkpoint.faults[0].message
    assert bytes(checkpoint.raw("a")) == eight.view(torch.uint8).numpy().tobytes()
    for read in (checkpoint.array, checkpoint.blocks):
        with pytest.raises(TTFileError, match="F8_E4M3"):
            read("a")
    assert checkpoint.array("b").sum() == 4
    with pytest.raises(TTFileError, match="F8_E4M3"):
        open_checkpoint(path, strict=True)


def test_a_dtype_of_tomorrow_is_named_and_can_be_copied(tmp_path):
    header = {**GOOD, "c": {"dtype": "I4", "shape": [3], "data_offsets": [12, 14]}}
    checkpoint = open_checkpoint(write(tmp_path / "m.safetensors", files.pack(header, b"0" * 12 + b"xy")))
    assert kinds(checkpoint) == [("unknown dtype", "c")]
    assert bytes(checkpoint.raw("c")) == b"xy"
    assert checkpoint.array("b").tolist() == [48] * 4


# Where a checkpoint is


def test_a_folder_is_searched_as_transformers_does(tmp_path):
    tensors = files.weights()
    assert open_checkpoint(files.hub_cache(tmp_path / "hub")).entries.keys() == tensors.keys()
    alone = files.single_file(tmp_path / "alone" / "adapter_model.safetensors").parent
    (alone / ".adapter_model.part.safetensors").write_bytes(b"")  # what a killed writer left
    assert open_checkpoint(alone).entries.keys() == tensors.keys()
    both = files.sharded_folder(tmp_path / "both")
    files.single_file(both / "model.safetensors", {"w": np.ones(3)})
    assert list(open_checkpoint(both).entries) == ["w"]


def test_a_set_of_shards_needs_no_index(folder):
    (folder / "model.safetensors.index.json").unlink()
    assert open_checkpoint(folder, strict=True).entries.keys() == files.weights().keys()
    shard(folder, 2).unlink()
    assert kinds(open_checkpoint(folder)) == [("missing file", shard(folder, 2).name)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no checkpoint, but nothing"),
        (["a.txt", "b.json"], r"holds no checkpoint, but a\.txt, b\.json"),
        ([f"{k}.txt" for k in range(20)], "and 12 more"),
        (["pytorch_model.bin"], r"pickle files \(pytorch_model\.bin\).*weights_only=True"),
        (["a.safetensors", "b.safetensors"], r"2 candidates: a\.safetensors, b\.safetensors"),
        (["a-00001-of-00002.safetensors", "b-00001-of-00002.safetensors"], "2 candidates"),
        (["a.gguf", "b.gguf"], "2 candidates"),
        (["a.safetensors.index.json", "b.safetensors.index.json"], "2 candidates"),
        (["snapshots/1/model.safetensors", "snapshots/2/model.safetensors"], "2 candidates: 1, 2"),
        (["snapshots/1/config.json"], r"holds no checkpoint, but config\.json"),
    ],
)
def test_a_folder_that_is_no_checkpoint_says_what_it_holds(tmp_path, names, message):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(TTFileError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "ckpt", "pkl", "PT"])
def test_a_pickle_is_never_opened(tmp_path, suffix):
    with pytest.raises(TTFileError, match=r"could run code.*safetensors\.torch\.save_file"):
        open_checkpoint(write(tmp_path / f"model.{suffix}", b"cos\nsystem\n(S'exit'\ntR."))


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint here"):
        open_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(TTFileError, match="no checkpoint"):
        open_checkpoint(write(tmp_path / "notes.txt", b""))
    with pytest.raises(TTFileError, match="null"):
        open_checkpoint("a\0b")
    os.mkfifo(tmp_path / "pipe.safetensors")  # opening it would wait for a writer
    with pytest.raises(TTFileError, match="no checkpoint"):
        open_checkpoint(tmp_path / "pipe.safetensors")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(TTFileError, match="missing"):
        open_checkpoint(tmp_path / "link")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "x.bin"}}']
    + [json.dumps({"weight_map": {"a": f"{name}.safetensors"}}) for name in ("../x", "/x", "a/b", "c:x", "a\\b", "\0", "")],
)  # fmt: skip
def test_an_index_that_is_wrong_is_refused(tmp_path, text):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(TTFileError, match=r"index\.json"):
        open_checkpoint(tmp_path)


# The same checkpoint or another one


def test_the_fingerprint_changes_when_a_tensor_could_have(folder):
    def fingerprint():
        return open_checkpoint(folder).fingerprint

    seen = [fingerprint()]
    assert open_checkpoint(folder / "model.safetensors.index.json").fingerprint == seen[0] == fingerprint()
    moved = folder.rename(folder.with_name("moved"))
    assert open_checkpoint(moved).fingerprint == seen[0]  # where the folder is does not matter
    moved.rename(folder)

    os.utime(shard(folder, 1), ns=(0, 1))
    seen.append(fingerprint())
    status, content = shard(folder, 1).stat(), shard(folder, 1).read_bytes()
    shard(folder, 1).write_bytes(content.replace(b"layers.0", b"layers.7").replace(b"layers.1", b"layers.8"))
    os.utime(shard(folder, 1), ns=(0, status.st_mtime_ns))  # same size, same time, another header
    seen.append(fingerprint())
    files.cut(shard(folder, 2), 1)
    seen.append(fingerprint())
    files.write_index(folder, {**files.read_index(folder), "ghost": shard(folder, 1).name})
    seen.append(fingerprint())
    shard(folder, 2).unlink()
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen)


def test_a_file_that_changed_after_opening_is_refused(folder):
    checkpoint = open_checkpoint(folder)
    name = next(iter(checkpoint.entries))
    blocks = checkpoint.blocks("embed.weight", rows=1)
    next(blocks)
    for path in folder.glob("*.safetensors"):
        files.cut(path, 300)
    reads = [lambda: checkpoint.array(name), lambda: checkpoint.raw(name), lambda: next(blocks)]
    for read in reads:
        with pytest.raises(TTFileError, match="open it again"):
            read()
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(TTFileError, match="cannot read"):
        checkpoint.array(name)


def test_wrong_questions_are_answered(tmp_path):
    tensors = {**files.weights(), "count": np.ones((3, 4), np.int32)}
    checkpoint = open_checkpoint(files.single_file(tmp_path / "m.safetensors", tensors))
    with pytest.raises(TTFileError, match=r"no tensor 'embed\.wieght'.*'embed\.weight'"):
        checkpoint.array("embed.wieght")
    with pytest.raises(ShapeError, match=r"\(8,\)"):
        checkpoint.blocks("norm.weight")
    with pytest.raises(TTFileError, match="I32"):
        checkpoint.blocks("count")
    for options in ({"rows": 0}, {"rows": -1}, {"block_bytes": 0}):
        with pytest.raises(ShapeError, match="at least one"):
            checkpoint.blocks("embed.weight", **options)
    with pytest.raises(TypeError):
        checkpoint.entries["x"] = None


# gguf


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    rng = np.random.default_rng(0)
    numbers = {
        name: (rng.standard_normal(shape).astype(np.float32), kind)
        for name, shape, kind in [
            ("token_embd.weight", (37, 64), "Q8_0"),
            ("blk.0.attn_q.weight", (64, 96), "Q4_0"),
            ("blk.0.attn_k.weight", (12, 96), "BF16"),
            ("blk.0.attn_v.weight", (12, 96), "F16"),
            ("blk.0.experts.weight", (3, 5, 32), "Q4_1"),
            ("output_norm.weight", (64,), "F32"),
        ]
    }
    return files.gguf_file(tmp_path_factory.mktemp("gguf") / "model.gguf", numbers, {"note": "é", "long": "x" * 70_000})


def test_a_gguf_file_is_read_as_the_package_reads_it(quantised):
    checkpoint = open_checkpoint(quantised, strict=True)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(quantised).tensors}
    assert checkpoint.entries.keys() == theirs.keys()
    for name, tensor in theirs.items():
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        found, entry = checkpoint.array(name), checkpoint.entries[name]
        assert (entry.begin, entry.nbytes, entry.dtype) == (tensor.data_offset, tensor.n_bytes, tensor.tensor_type.name)
        assert found.shape == expected.shape == entry.shape
        assert np.array_equal(found, expected)
        assert not found.flags.writeable
        assert entry.is_floating
        if entry.is_matrix:
            blocks = list(checkpoint.blocks(name, rows=5))
            assert all(block.dtype == np.float32 for block in blocks)
            assert np.array_equal(np.concatenate(blocks), expected)
    texts = checkpoint.metadata()
    assert texts["general.architecture"] == "llama"
    assert texts["note"] == "é"
    assert "long" not in texts
    assert open_checkpoint(quantised.parent).fingerprint == checkpoint.fingerprint


def test_a_gguf_file_cut_anywhere_keeps_the_tensors_that_are_whole(quantised, tmp_path):
    whole, path = quantised.read_bytes(), tmp_path / "cut.gguf"
    complete = open_checkpoint(quantised)
    for length in [*range(0, len(whole), 1009), len(whole) - 1]:
        write(path, whole[:length])
        intact = {name for name, entry in complete.entries.items() if entry.end <= length}
        if intact:
            found = open_checkpoint(path)
            assert found.entries.keys() >= intact  # the last bytes of a file are padding
            assert all(np.array_equal(found.array(name), complete.array(name)) for name in intact)
        else:
            with pytest.raises(TTFileError, match=r"cut\.gguf"):
                open_checkpoint(path)


def test_a_random_accident_to_a_gguf_header_is_refused_or_stays_inside_the_file(quantised, tmp_path):
    whole, path, rng = quantised.read_bytes(), tmp_path / "hit.gguf", np.random.default_rng(0)
    length = min(entry.begin for entry in open_checkpoint(quantised).entries.values())
    # The vocabulary and the long text fill most of the header, the tensors stand at its end.
    places = np.concatenate([rng.integers(0, 200, 50), rng.integers(length - 500, length, 150)])
    accepted = 0
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << rng.integers(8)
        try:
            checkpoint = open_checkpoint(write(path, bytes(content)))
        except TTFileError:
            continue
        accepted += 1
        assert all(0 < entry.begin <= entry.end <= len(whole) for entry in checkpoint.entries.values())
        for name, entry in checkpoint.entries.items():
            checkpoint.raw(name)
            if entry.is_readable:
                with np.errstate(all="ignore"):
                    assert checkpoint.array(name).shape == entry.shape
    assert 0 < accepted < len(places)


def test_an_unknown_type_of_gguf_is_named(quantised, tmp_path):
    name = b"token_embd.weight"
    content = bytearray(quantised.read_bytes())
    place = content.index(name) + len(name) + 4 + 2 * 8
    assert content[place] == gguf.GGMLQuantizationType.Q8_0
    content[place] = 200
    checkpoint = open_checkpoint(write(tmp_path / "new.gguf", bytes(content)))
    assert kinds(checkpoint) == [("unknown dtype", name.decode())]
    assert checkpoint.entries[name.decode()].dtype == "ggml type 200"


def test_what_is_quantised_and_readable_agrees_with_the_package():
    readable = set()
    for kind, (_, nbytes) in gguf.GGML_QUANT_SIZES.items():
        try:
            gguf.dequantize(np.zeros((1, nbytes), np.uint8), kind)
        except NotImplementedError:
            continue
        readable.add(kind.name)
    assert readable - {"F16", "F32", "BF16"} == QUANTISED


def test_a_folder_with_a_set_of_gguf_shards(quantised, tmp_path):
    for k in (1, 2):
        numbers = {f"w{k}": (np.ones((2, 32), np.float32), "F32")}
        files.gguf_file(tmp_path / f"m-0000{k}-of-00002.gguf", numbers)
    assert list(open_checkpoint(tmp_path).entries) == ["w1", "w2"]


def test_without_the_package_gguf_its_files_name_it(quantised, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match="pip install gguf"):
        open_checkpoint(quantised)


def test_rows_and_words_are_the_numbers_of_array(tmp_path):
    numbers = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    for dtype, wide in ((torch.bfloat16, "float32"), (torch.float16, "float32"), (torch.float64, "float64")):
        safetensors.torch.save_file({"w": numbers.to(dtype)}, tmp_path / "m.safetensors")
        checkpoint = open_checkpoint(tmp_path / "m.safetensors")
        rows, words = checkpoint.rows("w"), checkpoint.words("w")
        assert (rows.shape, rows.dtype) == ((12, 8), wide)
        np.testing.assert_array_equal(rows[3:7], checkpoint.array("w")[3:7].astype(wide))
        np.testing.assert_array_equal(rows[10:99], checkpoint.array("w")[10:].astype(wide))
        assert words.dtype == (np.uint16 if dtype == torch.bfloat16 else checkpoint.array("w").dtype)
        assert not words.flags.writeable

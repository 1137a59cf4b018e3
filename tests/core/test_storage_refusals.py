"""What cannot be loaded: each refusal names the file, the field, what was found and expected, and what to do."""

import json
import os
import tracemalloc

import array_api_strict
import numpy as np
import pytest
import safetensors.numpy

import ttlib
from tests.core.tensor_files import DTYPES, make, pack, refusal, unpack
from ttlib.storage import load, save


@pytest.fixture
def file(tmp_path):
    return tmp_path / "train.safetensors"


def assert_matches(pattern, message):
    with pytest.raises(ttlib.TTFileError, match=pattern):
        raise ttlib.TTFileError(message)


def test_a_missing_file_is_a_missing_file(file):
    with pytest.raises(FileNotFoundError):
        load(file)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ttlib.TTFileError, match="folder, a pipe or a device', expected a file"):
            load(path)
    with pytest.raises(ttlib.TTFileError, match="null"):
        load("a\0b")
    (tmp_path / "file").touch()
    with pytest.raises(ttlib.TTFileError, match="Not a directory.*give the path") as caught:
        load(tmp_path / "file" / "x")
    assert isinstance(caught.value.__cause__, NotADirectoryError)


def test_a_file_that_may_not_be_read(file, monkeypatch):
    save(file, make("tensor_train", "float32", "numpy"))

    def refuse(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(file), "open", refuse)
    with pytest.raises(ttlib.TTFileError, match="Permission denied.*readable file"):
        load(file)


def test_libraries_without_the_dtype(file):
    save(file, make("tensor_train", "bfloat16", "torch"))
    for like in (None, np.zeros(1)):
        with pytest.raises(ttlib.BackendError, match="numpy has no bfloat16.*like=torch.zeros"):
            load(file, like=like)
    with pytest.raises(ttlib.BackendError, match="got builtins.list"):
        load(file, like=[1.0])
    save(file, make("tensor_train", "float16", "numpy"))
    with pytest.raises(ttlib.BackendError, match="array_api_strict has no float16"):
        load(file, like=array_api_strict.zeros(1))


def _set(place, value, *, new=None):
    """Change one field of a manifest or a header; `new` renames the field instead."""

    def change(fields):
        *folders, last = place
        for key in folders:
            fields = fields[key]
        if new:
            fields[new] = fields.pop(last)
        elif value is None:
            del fields[last]
        else:
            fields[last] = value

    return change


MANIFESTS = {
    "a newer version": (_set(["version"], 2), "version is 2, expected 1 at most; a newer ttlib wrote.*--upgrade"),
    "a newer version with other keys": (lambda m: m.update(version=9, new=1), "version is 9.*newer ttlib"),
    "version 0": (_set(["version"], 0), "version is 0, expected 1; the file is damaged"),
    "version 1.0": (_set(["version"], 1.0), "version is 1.0, expected 1"),
    "version true": (_set(["version"], True), "version is True, expected 1"),
    "no version": (_set(["version"], None), "version is None"),
    "another format": (_set(["format"], "other"), "format is 'other', expected 'ttlib'"),
    "a missing key": (_set(["ranks"], None), "keys of the manifest is .* expected .*; the file is damaged"),
    "an extra key": (_set(["extra"], 1), "keys of the manifest"),
    "another kind": (_set(["kind"], "tucker"), "kind is 'tucker', expected one of tensor_train, tt_matrix"),
    "a kind that is a list": (_set(["kind"], ["tensor_train"]), r"kind is \['tensor_train'\]"),
    "the other kind": (_set(["kind"], "tt_matrix"), r"shapes\[0\] is \[3\], expected 2 integer"),
    "int64": (_set(["dtype"], "int64"), "dtype is 'int64', expected one of float16, bfloat16"),
    "another dtype of this size": (_set(["dtype"], "bfloat16"), "dtype of core_0 is 'F32', expected 'BF16'"),
    "complex": (_set(["dtype"], "complex64"), r"shape of core_0 is \[1, 3, 2\], expected \[1, 3, 2, 2\]"),
    "no shapes": (_set(["shapes"], []), r"shapes is \[\], expected a list"),
    "shapes of numbers": (_set(["shapes"], [3, 4, 2]), r"shapes\[0\] is 3, expected 1 integer"),
    "another shape": (_set(["shapes", 1], [5]), r"shape of core_1 is \[2, 4, 3\], expected \[2, 5, 3\]"),
    "too few shapes": (_set(["shapes", 0], None), "ranks is .*, expected 3 integer"),
    "ranks that do not start with 1": (_set(["ranks", 0], 2), r"first and last of ranks is \[2, 1\]"),
    "another rank": (_set(["ranks", 1], 3), r"shape of core_0 is \[1, 3, 2\], expected \[1, 3, 3\]"),
    "too few hashes": (_set(["sha256", 0], None), "sha256 is .*, expected a list of 3"),
    "hashes that are none": (_set(["sha256"], 5), "sha256 is 5"),
    "another hash": (_set(["sha256", 1], "0" * 64), "SHA-256 of core 1 is '[0-9a-f]{64}', expected '0{64}'"),
    "a hash that is a number": (_set(["sha256", 1], 0), "SHA-256 of core 1 .* expected 0"),
}
BAD_INTEGERS = [0, -1, True, 1.5, 2.0, "2", [2], {}, 10**9, 10**30, 10**4000, float("nan"), float("inf")]
MANIFESTS |= {
    f"{field} {value!r:.9}": (_set(place, value), r"expected|NaN|Infinity")
    for value in BAD_INTEGERS
    for field, place in {"rank": ["ranks", 1], "mode": ["shapes", 1, 0]}.items()
}

HEADERS = {
    "a missing core": (_set(["core_1"], None), r"list of tensors is .*differ by \['core_1'\]"),
    "an extra core": (_set(["core_3"], {}), r"differ by \['core_3'\]"),
    "a renamed core": (_set(["core_1"], None, new="../../x"), "differ by"),
    "an entry that is none": (_set(["core_1"], []), r"core_1 is \[\], expected an object"),
    "an entry without offsets": (_set(["core_1", "data_offsets"], None), "keys of core_1"),
    "an entry with more": (_set(["core_1", "more"], 1), "keys of core_1"),
    "float64": (_set(["core_1", "dtype"], "F64"), "dtype of core_1 is 'F64', expected 'F32'; the file is damaged"),
    "a transposed shape": (_set(["core_1", "shape"], [3, 4, 2]), r"shape of core_1 is \[3, 4, 2\]"),
    "offsets that overlap": (_set(["core_1", "data_offsets"], [0, 96]), r"data_offsets of core_1 is \[0, 96\]"),
    "offsets beyond the end": (_set(["core_2", "data_offsets"], [120, 10**12]), "data_offsets of core_2"),
    "a shape of floats": (_set(["core_1", "shape"], [2.0, 4.0, 3.0]), "safetensors refuses it"),
    "no metadata": (_set(["__metadata__"], None), r"no __metadata__.ttlib, .*one of 3 tensor.*ttlib.TensorTrain"),
    "metadata of others": (_set(["__metadata__"], {"format": "pt"}), "no __metadata__.ttlib"),
    "metadata that are no text": (_set(["__metadata__", "ttlib"], 1), "no __metadata__.ttlib"),
    "more metadata": (_set(["__metadata__", "format"], "pt"), r"keys of __metadata__ is \['format', 'ttlib'\]"),
    "a manifest that is no JSON": (_set(["__metadata__", "ttlib"], "{"), "the manifest is not valid JSON"),
    "a manifest that is a list": (
        _set(["__metadata__", "ttlib"], "[]"),
        r"the manifest is \[\], expected a JSON object",
    ),
    "half of a character": (_set(["__metadata__", "ttlib"], '{"\ud800": 1}'), "format is None"),
}


@pytest.fixture
def parts(file):
    save(file, make("tensor_train", "float32", "numpy"))
    return unpack(file.read_bytes())


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_is_false_is_refused(file, parts, case):
    change, message = MANIFESTS[case]
    header, data = parts
    manifest = json.loads(header["__metadata__"]["ttlib"])
    change(manifest)
    header["__metadata__"]["ttlib"] = json.dumps(manifest)
    assert_matches(message, refusal(file, pack(header, data)))


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_is_false_is_refused(file, parts, case):
    change, message = HEADERS[case]
    header, data = parts
    change(header)
    assert_matches(message, refusal(file, pack(header, data)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: b"", "length of the header is 0, expected at most 0 in a file of 0 bytes"),
        (lambda c: c[:5], "length of the header"),
        (lambda c: c[:100], "length of the header is .*, expected at most 92 in a file of 100 bytes"),
        (lambda c: c[:-1], "size of the file in bytes is .*, expected .*; the file is damaged"),
        (lambda c: c + b"\0", "size of the file in bytes"),
        (lambda c: b"\xff" * 8 + c[8:], "length of the header is 18446744073709551615"),
        (lambda c: (1 << 21).to_bytes(8, "little") + bytes(1 << 21), "header is 2097152, expected at most 1048576"),
        (lambda c: c[:8] + b"\xff" + c[9:], "expected UTF-8"),
        (lambda c: pack("[1, 2]"), r"the header is \[1, 2\], expected a JSON object"),
        (lambda c: pack("{}"), "one of 0 tensor"),
        (lambda c: pack("{"), "the header is not valid JSON"),
        (lambda c: pack('{"a": NaN}'), "NaN is not a number"),
        (lambda c: pack('{"a": 1, "a": 1}'), "a name occurs twice"),
        (lambda c: pack('{"a": ' + "9" * 5000 + "}"), "not valid JSON"),
        (lambda c: safetensors.numpy.save({"weight": np.ones(3)}), r"no __metadata__.ttlib.*\['weight'\]"),
        (lambda c: b"\x80\x04\x95" + b"pickle" * 10, "this is no file of ttlib.save"),
    ],
)
def test_a_container_that_is_broken_or_another_one(file, parts, change, message):
    assert_matches(message, refusal(file, change(file.read_bytes())))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_in_a_file_is_refused_with_a_right_hash_too(file, monkeypatch, dtype):
    tt = make("tensor_train", dtype, "torch")
    tt.cores[2][0, 1, 0] = float("nan")
    with monkeypatch.context() as patch:
        patch.setattr("ttlib.storage._count_non_finite", lambda *_: 0)
        save(file, tt)
    assert_matches("NaN and infinite values in core 2 is 1, expected 0", refusal(file, file.read_bytes()))


def _manifest_bomb(**fields):
    manifest = {"format": "ttlib", "version": 1, "kind": "tensor_train", "dtype": "float64", **fields}
    cores = len(manifest["shapes"])
    header = {"__metadata__": {"ttlib": json.dumps({"sha256": [""] * cores, **manifest})}}
    return pack(header | {f"core_{k}": {} for k in range(cores)})


BOMBS = {
    "ranks of 10**9": lambda: _manifest_bomb(shapes=[[2], [2]], ranks=[1, 10**9, 1]),
    "ranks of 10**30": lambda: _manifest_bomb(shapes=[[2], [2]], ranks=[1, 10**30, 1]),
    "a header of 2**63 bytes": lambda: (1 << 63).to_bytes(8, "little") + b"{" * 100,
    "a header of 100 MB": lambda: (10**8).to_bytes(8, "little") + b" " * 100,
    "200,000 lists in lists": lambda: pack("[" * 200_000 + "]" * 200_000),
    "200,000 objects in objects": lambda: pack('{"a":' * 200_000),
    "depth behind a string of brackets": lambda: pack('["' + "]" * 1000 + '",' + "[" * 1000),
    "depth in the manifest": lambda: pack({"__metadata__": {"ttlib": "[" * 200_000}}),
    "a string that never ends": lambda: pack('"' + '\\"' * 500_000),
    "100,000 keys": lambda: pack("{" + ",".join(f'"{k}":1' for k in range(100_000)) + "}"),
    "a list of 300,000": lambda: pack({"__metadata__": {"ttlib": json.dumps({"format": "ttlib", "version": [1] * 300_000})}}),
    "a long number": lambda: pack('{"a":' + "9" * 1_000_000 + "}"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_without_allocation(file, bomb):
    content = BOMBS[bomb]()
    if len(content) < 1000:  # and as large as it says, without taking the space
        file.write_bytes(content)
        os.truncate(file, 1 << 40)
    else:
        file.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ttlib.TTFileError):
            load(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20

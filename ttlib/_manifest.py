"""What a tensor-train file says of itself, and the checks that all its statements agree.  No array enters here.

    8 bytes | header, JSON                                     | data
    length  | "__metadata__": {"ttlib": the manifest as JSON}, | core_0, core_1, … one after the other,
            | "core_0": {dtype, shape, data_offsets}, …        | little-endian, C order

From the manifest follow all other entries of the header and the length of the file, so a statement that is false is
found before anybody acts on it: `read_manifest` needs no more memory than the header takes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from typing import BinaryIO

from ttlib._json import Json, check, parse_object, refuse, show
from ttlib._types import Ranks, Shape
from ttlib.errors import TTFileError

FORMAT = "ttlib"
VERSION = 1
MODES_PER_CORE = {"tensor_train": 1, "tt_matrix": 2}

LENGTH_BYTES = 8
# Room for some six thousand cores.  A file may come from anywhere, and these two bound the work that parsing it takes.
LARGEST_HEADER = 1 << 20

_FOREIGN = "this is no file of ttlib.save, or a damaged one: read other files with their own library"


@dataclass(frozen=True, slots=True)
class Layout:
    """How the numbers of one dtype lie in a file."""

    name: str  # the dtype that safetensors is asked to write …
    code: str  # … and what the header then calls it
    words: str  # the numpy dtype of the same bits
    parts: Shape = ()  # a trailing axis for the real and imaginary parts

    @property
    def word_bytes(self) -> int:
        """The size of one word: 4 for '<f4'."""
        return int(self.words[2:])


# numpy has no bfloat16: its bits travel as integers.  safetensors knows complex64 only in its newest versions and
# complex128 in none, and a train must give the same bytes with each of them: pairs of real numbers.
LAYOUTS = {
    "float16": Layout("float16", "F16", "<f2"),
    "bfloat16": Layout("bfloat16", "BF16", "<u2"),
    "float32": Layout("float32", "F32", "<f4"),
    "float64": Layout("float64", "F64", "<f8"),
    "complex64": Layout("float32", "F32", "<f4", parts=(2,)),
    "complex128": Layout("float64", "F64", "<f8", parts=(2,)),
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a file; core k has the shape (ranks[k], *shapes[k], ranks[k + 1])."""

    kind: str
    dtype: str
    shapes: tuple[Shape, ...]  # the modes of each core: (n,) in a train, (m, n) in a matrix
    ranks: Ranks
    sha256: tuple[str, ...]  # of the bytes of each core

    @property
    def layout(self) -> Layout:
        """How the numbers lie in the file."""
        return LAYOUTS[self.dtype]

    def entries(self) -> dict[str, Json]:
        """Return the entries of the cores in the header, in the order of the data."""
        width = len(str(len(self.shapes) - 1))  # safetensors orders tensors by name, where core_10 is before core_2
        entries, end = {}, 0
        for k, modes in enumerate(self.shapes):
            shape = [self.ranks[k], *modes, self.ranks[k + 1], *self.layout.parts]
            begin, end = end, end + math.prod(shape) * self.layout.word_bytes
            entries[f"core_{k:0{width}}"] = {"dtype": self.layout.code, "shape": shape, "data_offsets": [begin, end]}
        return entries

    def to_json(self) -> str:
        """Write the manifest on one line, the same one for the same contents."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, separators=(",", ":"))


def read_manifest(file: BinaryIO, *, size: int) -> tuple[Manifest, bytes]:
    """Return the manifest and the leading bytes of a file of *size* bytes in which header, manifest and size agree.

    Reads up to the first byte of the data.  Raises TTFileError naming the field, what was found and expected.
    """
    prefix = file.read(LENGTH_BYTES)
    length = int.from_bytes(prefix, "little")
    most = max(min(LARGEST_HEADER, size - LENGTH_BYTES), 0)
    if len(prefix) < LENGTH_BYTES or length > most:
        refuse("the length of the header", length, f"at most {most} in a file of {size} bytes", _FOREIGN)
    head = file.read(length)
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        refuse("the header", str(error), "UTF-8 text", _FOREIGN)
    header = parse_object(text, "the header", _FOREIGN)
    manifest = _parse_manifest(_manifest_text(header))
    entries = manifest.entries()
    _check_entries(header, entries)
    data_bytes = next(reversed(entries.values()))["data_offsets"][1]
    check("the size of the file in bytes", size, LENGTH_BYTES + length + data_bytes)
    return manifest, prefix + head


def _manifest_text(header: Json) -> str:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or not isinstance(metadata.get(FORMAT), str):
        names = sorted(header.keys() - {"__metadata__"})
        msg = (
            f"the header has no __metadata__.{FORMAT}, so this is no tensor-train file, but one of {len(names)} "
            f"tensor(s) {show(names)}; read them with safetensors and pass the cores to ttlib.TensorTrain"
        )
        raise TTFileError(msg)
    check("the keys of __metadata__", sorted(metadata), [FORMAT])
    return str(metadata[FORMAT])


def _parse_manifest(text: str) -> Manifest:
    found = parse_object(text, "the manifest", _FOREIGN)
    check("format", found.pop("format", None), FORMAT)
    version = found.pop("version", None)
    if type(version) is int and version > VERSION:
        remedy = "a newer ttlib wrote this file: upgrade with `pip install --upgrade ttlib`"
        refuse("version", version, f"{VERSION} at most", remedy)
    if type(version) is not int or version < VERSION:
        refuse("version", version, f"{VERSION}")
    check("the keys of the manifest", sorted(found), sorted(field.name for field in fields(Manifest)))
    kind, shapes, ranks, hashes = found["kind"], found["shapes"], found["ranks"], found["sha256"]
    _check_choice("kind", kind, MODES_PER_CORE)
    _check_choice("dtype", found["dtype"], LAYOUTS)
    if not isinstance(shapes, list) or not shapes:
        refuse("shapes", shapes, "a list of the modes of each core")
    for k, modes in enumerate(shapes):
        _check_integers(f"shapes[{k}]", modes, count=MODES_PER_CORE[kind])
    _check_integers("ranks", ranks, count=len(shapes) + 1)
    check("the first and last of ranks", [ranks[0], ranks[-1]], [1, 1])
    if not isinstance(hashes, list) or len(hashes) != len(shapes):
        refuse("sha256", hashes, f"a list of {len(shapes)}")
    return Manifest(kind, found["dtype"], tuple(map(tuple, shapes)), tuple(ranks), tuple(hashes))


def _check_integers(field: str, found: object, *, count: int) -> None:
    # By type, not by isinstance: true is an int in Python, but no rank.
    if not isinstance(found, list) or len(found) != count or not all(type(n) is int and n >= 1 for n in found):
        refuse(field, found, f"{count} integer(s) >= 1")


def _check_choice(field: str, found: object, choices: Collection[str]) -> None:
    if not isinstance(found, str) or found not in choices:
        refuse(field, found, f"one of {', '.join(choices)}")


def _check_entries(header: Json, entries: dict[str, Json]) -> None:
    """Refuse a header that describes other tensors than the manifest does."""
    names = header.keys() - {"__metadata__"}
    if names != entries.keys():
        different = show(sorted(names ^ entries.keys()))
        refuse("the list of tensors", sorted(names), f"{show(sorted(entries))} (they differ by {different})")
    for name, entry in entries.items():
        found = header[name]
        if not isinstance(found, dict):
            refuse(name, found, "an object")
        check(f"the keys of {name}", sorted(found), sorted(entry))
        for key, value in entry.items():
            check(f"{key} of {name}", found[key], value)

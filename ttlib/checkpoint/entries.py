"""What a checkpoint says of its tensors and of itself: plain values.  No array enters here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ttlib._types import Shape


@dataclass(frozen=True, slots=True)
class StoredDtype:
    """How the numbers of one dtype lie in a file."""

    bits: int
    words: str | None = None  # the numpy dtype of the same bits; None: numpy has none


# In the order in which safetensors lays tensors out, by alignment; the writer keeps to it.
DTYPES: Mapping[str, StoredDtype] = {
    "BOOL": StoredDtype(8, "|b1"),
    "F4": StoredDtype(4),
    "F6_E2M3": StoredDtype(6),
    "F6_E3M2": StoredDtype(6),
    "U8": StoredDtype(8, "|u1"),
    "I8": StoredDtype(8, "|i1"),
    "F8_E5M2": StoredDtype(8),
    "F8_E4M3": StoredDtype(8),
    "F8_E8M0": StoredDtype(8),
    "F8_E4M3FNUZ": StoredDtype(8),
    "F8_E5M2FNUZ": StoredDtype(8),
    "I16": StoredDtype(16, "<i2"),
    "U16": StoredDtype(16, "<u2"),
    "F16": StoredDtype(16, "<f2"),
    "BF16": StoredDtype(16, "<u2"),  # numpy has no bfloat16: its bits travel as integers
    "I32": StoredDtype(32, "<i4"),
    "U32": StoredDtype(32, "<u4"),
    "F32": StoredDtype(32, "<f4"),
    "C64": StoredDtype(64, "<c8"),
    "F64": StoredDtype(64, "<f8"),
    "I64": StoredDtype(64, "<i8"),
    "U64": StoredDtype(64, "<u8"),
}

# The quantised types of ggml that the package gguf turns back into numbers.
QUANTISED = frozenset(
    {f"Q{kind}" for kind in ("4_0", "4_1", "5_0", "5_1", "8_0", "2_K", "3_K", "4_K", "5_K", "6_K")}
    | {f"IQ{kind}" for kind in ("1_S", "1_M", "2_XXS", "2_XS", "2_S", "3_XXS", "3_S", "4_NL", "4_XS")}
    | {"TQ1_0", "TQ2_0", "MXFP4", "NVFP4"}
)

_FLOATING = QUANTISED | {"F16", "BF16", "F32", "F64"}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a checkpoint: what it is and where its bytes lie.

    >>> entry = TensorEntry("lm_head.weight", "BF16", (49152, 576), Path("model.safetensors"), 312, 56623416)
    >>> entry.parameters, entry.nbytes, entry.is_matrix, entry.is_floating
    (28311552, 56623104, True, True)
    """

    name: str
    dtype: str  # "F32", "BF16", … as safetensors calls it; in a gguf file also "Q4_K", …
    shape: Shape
    file: Path
    begin: int  # the first byte of the tensor, counted from the start of the file …
    end: int  # … and the first one behind it

    @property
    def nbytes(self) -> int:
        """The size in the file, in bytes."""
        return self.end - self.begin

    @property
    def parameters(self) -> int:
        """The number of numbers."""
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether the tensor has two sides, both longer than 1."""
        return len(self.shape) == 2 and min(self.shape) > 1

    @property
    def is_floating(self) -> bool:
        """Whether the dtype is one of real numbers that can be read: no integers, and nothing of 8 bits or less."""
        return self.dtype in _FLOATING

    @property
    def is_readable(self) -> bool:
        """Whether the numbers can be read at all; the bytes always can."""
        return self.dtype in QUANTISED or (self.dtype in DTYPES and DTYPES[self.dtype].words is not None)


FaultKind: TypeAlias = Literal[
    "missing file",
    "damaged file",
    "cut off",  # a tensor whose bytes are not all there
    "missing tensor",
    "duplicate name",
    "wrong index",  # the tensor is there, but not where the index says
    "unknown dtype",  # the tensor can be copied, but not read as numbers
]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a checkpoint that leaves the rest of it usable."""

    kind: FaultKind
    subject: str  # the name of the tensor, or of the file
    message: str  # the fact, the value, and what was done or can be done about it


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What one file says of its tensors, checked against itself and against the size of the file."""

    file: Path
    size: int
    mtime_ns: int
    digest: str  # the SHA-256 of the header
    entries: tuple[TensorEntry, ...]  # in the order of their bytes; all of them wholly inside the file
    metadata: Mapping[str, str]
    faults: tuple[Fault, ...] = ()


def cut_off(entry: TensorEntry, size: int) -> Fault:
    """Return the fault of a tensor that ends beyond the end of its file."""
    return Fault(
        "cut off",
        entry.name,
        f"tensor {entry.name!r} ends at byte {entry.end}, but {entry.file.name} has {size}: it is skipped; "
        "download or copy the file again",
    )

"""Which tensors of a checkpoint are weights that can become trains, and why the others cannot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ttlib.checkpoint.entries import TensorEntry
from ttlib.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Skipped:
    """A tensor that was asked for and left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What a run is about.

    Attributes:
        weights: matrices of real numbers, in the order of the checkpoint.
        skipped: matrices that cannot be decomposed: of integers, or of a dtype that cannot be read.
        others: everything else: vectors, tensors of more axes, and what the patterns leave out.
    """

    weights: tuple[TensorEntry, ...]
    skipped: tuple[Skipped, ...]
    others: tuple[TensorEntry, ...]


def select(
    entries: Iterable[TensorEntry], *, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> Selection:
    """Choose the matrices whose names fit a pattern of *include* and none of *exclude*.

    Patterns are those of a shell: `*` stands for any text, dots too.

    Raises:
        ShapeError: nothing fits, with a few of the names that there are.
    """
    weights: list[TensorEntry] = []
    skipped: list[Skipped] = []
    others: list[TensorEntry] = []
    matrices: list[str] = []
    for entry in entries:
        if not entry.is_matrix:
            others.append(entry)
            continue
        matrices.append(entry.name)
        if not _fits(entry.name, include) or _fits(entry.name, exclude):
            others.append(entry)
        elif entry.is_floating:
            weights.append(entry)
        else:
            skipped.append(Skipped(entry.name, f"its dtype {entry.dtype} is none of real numbers of 16 bits or more"))
    if not weights and not skipped:
        msg = (
            f"no matrix of the checkpoint is called like {', '.join(include)}"
            + (f" and not like {', '.join(exclude)}" if exclude else "")
            + f"; its {len(matrices)} matrices are {', '.join(matrices[:5])}{', …' if len(matrices) > 5 else ''}"
        )
        raise ShapeError(msg)
    return Selection(tuple(weights), tuple(skipped), tuple(others))


def place(name: str) -> tuple[int | None, str]:
    """Split a name into the number of its layer and what the weight does there.

    >>> place("model.layers.7.self_attn.q_proj.weight")
    (7, 'self_attn.q_proj')
    >>> place("lm_head.weight")
    (None, 'lm_head')
    >>> place("blk.3.ffn_up.weight")
    (3, 'ffn_up')
    """
    parts = name.removesuffix(".weight").split(".")
    numbers = [k for k, part in enumerate(parts) if part.isdecimal()]
    if not numbers or numbers[0] == len(parts) - 1:
        return None, ".".join(parts)
    first = numbers[0]
    return int(parts[first]), ".".join(parts[first + 1 :])


def by_place(values: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Arrange values of weights by (layer, projection), those outside of layers under "-"; for a heat map."""
    found = {}
    for name, value in values.items():
        layer, projection = place(name)
        found["-" if layer is None else str(layer), projection] = value
    return found


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

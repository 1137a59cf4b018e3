"""Names for the types that travel through ttlib, and the option sets as Literals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

# The array-API standard has no base class to name: an Array is whatever array_namespace() accepts.
Array: TypeAlias = Any

# (r_0, n_1, r_1), (r_1, n_2, r_2), … with r_0 = r_d = 1.
Cores: TypeAlias = tuple[Array, ...]

Shape: TypeAlias = tuple[int, ...]
ShapeLike: TypeAlias = Sequence[int]

# Ranks with both boundary 1s; what a caller may pass is wider (see ttlib.ranks.expand_ranks).
Ranks: TypeAlias = tuple[int, ...]
RanksLike: TypeAlias = int | Sequence[int]

Driver: TypeAlias = Literal["auto", "lapack", "qr", "gram", "sketch"]

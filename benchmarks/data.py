"""Tensors with known spectra, and the error of a train measured without any library's help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch

Cores = Sequence[Any]  # (r, n, r') arrays of numpy or torch
Library = Literal["numpy", "torch"]


def gaussian(modes: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Independent normal entries: the spectra of all unfoldings are nearly flat."""
    return np.random.default_rng(0).standard_normal(math.prod(modes), dtype=dtype).reshape(modes)


def decaying(modes: tuple[int, ...], dtype: Any, *, rank: int = 100, decay: float = 0.85, noise: float = 1e-3):
    """A train whose singular values fall about like decay^j at every bond, plus noise of that relative size."""
    left, right = halves(decaying_cores(modes, rank=rank, decay=decay))
    tensor = (left @ right).astype(dtype).reshape(modes)
    scale = float(np.linalg.norm(tensor.ravel())) / math.sqrt(tensor.size)
    tensor /= scale
    tensor += noise * np.random.default_rng(1).standard_normal(tensor.shape, dtype=dtype)
    return tensor


def decaying_cores(modes: tuple[int, ...], *, rank: int, decay: float) -> list[np.ndarray]:
    """Gaussian float64 cores of norm about 1, the j-th value of every inner bond scaled by decay^j."""
    rng = np.random.default_rng(2)
    ranks = [1] + [min(rank, math.prod(modes[:k]), math.prod(modes[k:])) for k in range(1, len(modes))] + [1]
    cores = []
    for mode, (a, b) in zip(modes, pairwise(ranks), strict=True):
        core = rng.standard_normal((a, mode, b)) * decay ** np.arange(b)
        cores.append(core / np.linalg.norm(core) * math.sqrt(a))
    return cores


def halves(cores: Cores) -> tuple[np.ndarray, np.ndarray]:
    """The two float64 factors at the middle bond: (n1 … nk, r) and (r, nk+1 … nd)."""
    arrays = [np.asarray(core, dtype=np.float64) for core in cores]
    middle = len(arrays) // 2
    left, right = np.ones((1, 1)), np.ones((1, 1))
    for core in arrays[:middle]:
        left = (left @ core.reshape(core.shape[0], -1)).reshape(-1, core.shape[2])
    for core in reversed(arrays[middle:]):
        right = (core.reshape(-1, core.shape[2]) @ right).reshape(core.shape[0], -1)
    return left, right


def relative_error(cores: Cores, tensor: np.ndarray) -> float:
    """||tensor - train|| / ||tensor|| in float64, a block of rows at a time."""
    left, right = halves(cores)
    matrix = tensor.reshape(left.shape[0], right.shape[1])
    step = max(1, 2**22 // right.shape[1])
    wrong = total = 0.0
    for start in range(0, left.shape[0], step):
        rows = matrix[start : start + step].astype(np.float64)
        total += float(np.vdot(rows, rows))
        rows -= left[start : start + step] @ right
        wrong += float(np.vdot(rows, rows))
    return math.sqrt(wrong / total)


def as_library(array: np.ndarray, library: Library) -> Any:
    """The same numbers as an array of that library, sharing the memory."""
    if library == "numpy":
        return array
    view = array.view()
    view.flags.writeable = True  # torch knows no read-only tensors
    return torch.from_numpy(view)

"""Starts in the leading singular directions of the frozen weight, as PiSSA (Meng et al. 2024) has for two factors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

import ttlib
from ttlib_peft.tt_linear import TTLinear


@torch.no_grad()
def leading_directions(weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the leading left (rows, count) and right (count, cols) singular directions, times root singular values.

    Where the matrix has fewer directions, the rest is zero.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    pair = ttlib.decompose(wide, ranks=min(count, *weight.shape))
    left, right = pair.cores[0][0], pair.cores[1][..., 0]  # orthonormal columns; the rest
    sizes = torch.linalg.vector_norm(right, dim=1)
    roots = torch.where(sizes > 0, sizes, 1).sqrt()
    missing = count - len(sizes)
    return pad(left * roots, (0, missing)), pad(right / roots[:, None], (0, 0, 0, missing))


@torch.no_grad()
def start_in(train: TTLinear, dense: Tensor) -> None:
    """Give *train* the directions of a matrix (in, out), and leave every core the size that its random start has.

    The sizes are free where the start is subtracted, and those of the random start suit one learning rate.  Where the
    matrix has less rank than the train, what is left of the train stays random.
    """
    ranks = list(train.ranks[1:-1])
    found = ttlib.decompose(dense.to(train.flat.dtype), shape=list(train.tensor_shape), ranks=ranks)
    for own, core in zip(train.cores, found.cores, strict=True):
        block = own[: core.shape[0], :, : core.shape[2]]
        size = torch.linalg.vector_norm(core)
        if size > 0:
            block.copy_(core * (torch.linalg.vector_norm(block) / size))

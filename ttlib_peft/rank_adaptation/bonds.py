"""All bond indices of all trains in one row, so that a step costs a few operations and not a few for every bond."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from ttlib_peft.rank_adaptation.selection import Kept
from ttlib_peft.tt_linear import TTLinear


class Bonds:
    """The inner bonds of some trains, their indices numbered through: train by train, bond by bond.

    Every entry of a core lies in two slices: of the index it ends in (its last axis) and of the one it starts from.
    The boundary bonds, which have nothing to give up, share the number behind the last.
    """

    def __init__(self, trains: Sequence[TTLinear]) -> None:
        self.trains = list(trains)
        self.ranks = [train.ranks[1:-1] for train in self.trains]
        self.count = sum(map(sum, self.ranks))
        starts, ends, offset = [], [], 0
        for train in self.trains:
            inner = accumulate(train.ranks[1:-1], initial=offset)
            numbers = [torch.arange(a, b) for a, b in pairwise(inner)]
            offset += sum(map(len, numbers))
            boundary = torch.tensor([self.count])
            bonds = pairwise([boundary, *numbers, boundary])
            for (a, mode, b), (left, right) in zip(train.core_shapes, bonds, strict=True):
                starts.append(left[:, None, None].expand(a, mode, b).reshape(-1))
                ends.append(right.expand(a, mode, b).reshape(-1))
        device = self.trains[0].flat.device
        self._starts, self._ends = torch.cat(starts).to(device), torch.cat(ends).to(device)

    @torch.no_grad()
    def sensitivity(self) -> Tensor:
        """Return, for every index, how much the loss would change without it, to first order: |sum of g (w - w0)|.

        The sum goes over the two slices that meet in the index; g is the gradient and w0 the kept start, or nothing.
        """
        moved = [train.flat if train.initial is None else train.flat - train.initial for train in self.trains]
        grads = [torch.zeros_like(train.flat) if train.flat.grad is None else train.flat.grad for train in self.trains]
        products = torch.cat([flat.float() for flat in moved]) * torch.cat([grad.float() for grad in grads])
        total = products.new_zeros(self.count + 1)
        return total.index_add_(0, self._starts, products).index_add_(0, self._ends, products)[:-1].abs_()

    @torch.no_grad()
    def switch_off(self, on: Tensor) -> None:
        """Zero the slices that end in an index that is not *on*, in the cores and in their start.

        The slice that starts from the index stays as it is: through it the other has a gradient and can come back.
        """
        ends_off = torch.cat([~on, on.new_zeros(1)])[self._ends]
        sizes = [train.flat.numel() for train in self.trains]
        for train, off in zip(self.trains, ends_off.split(sizes), strict=True):
            train.flat.masked_fill_(off, 0)
            if train.initial is not None:
                train.initial.masked_fill_(off, 0)

    def nested(self, values: Tensor) -> list[list[list[float]]]:
        """Return numbers, one for every index, by train, bond and index."""
        row = iter(values.tolist())
        return [[[next(row) for _ in range(rank)] for rank in own] for own in self.ranks]

    def switched_on(self, kept: Kept) -> Tensor:
        """Return True for every index that is among those kept."""
        on = [index in own for train, ranks in zip(kept, self.ranks, strict=True)
              for own, rank in zip(train, ranks, strict=True) for index in range(rank)]  # fmt: skip
        return torch.tensor(on, dtype=torch.bool, device=self._ends.device)

    def kept(self, on: Tensor) -> Kept:
        """Return the indices that are on, by train and bond."""
        return [[[i for i, stays in enumerate(bond) if stays] for bond in train] for train in self.nested(on)]

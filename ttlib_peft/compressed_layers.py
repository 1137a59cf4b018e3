"""Layers of a compressed model: W is a tensor train over its rows and then its columns, and is never put together.

`TTLinear` has W (in, out), as adapters do; a checkpoint has W (out, in).  Its train read backwards is no train of the
transpose in C order, but its two factors are: with W = U V, x W^T = (x V^T) U^T.

Trains of whole weights are larger than those of adapters by orders of magnitude, so nothing that is made from one is
kept, and how x gets through it depends on the number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from ttlib.cores.contraction import factor_pair, left_factor, right_factor
from ttlib.errors import ShapeError
from ttlib.planning import plan
from ttlib_peft.assembly import Factors, Train, plain_factors
from ttlib_peft.eager import is_ordinary, without_autocast
from ttlib_peft.skinny_product import as_dtype, skinny_product


class CompressedWeight(nn.Module):
    """What holds the train of one weight (rows, cols): the cores of both, one after another in one flat parameter.

    Args:
        flat: the numbers of all cores; tied layers share this one parameter.
        shape: the modes, those of the rows first, in C order.
        ranks: d + 1 of them, 1 at both ends.
        split: how many leading modes make up the rows.
    """

    flat: nn.Parameter

    def __init__(self, flat: nn.Parameter, *, shape: Sequence[int], ranks: Sequence[int], split: int) -> None:
        super().__init__()
        self.tensor_shape, self.ranks, self.split = tuple(shape), tuple(ranks), split
        cores = tuple((a, mode, b) for mode, (a, b) in zip(self.tensor_shape, pairwise(self.ranks), strict=True))
        self.train_shapes = Train(cores, split)
        if flat.shape != (sum(self.train_shapes.sizes),):
            msg = (
                f"flat has the shape {tuple(flat.shape)}, a train of shape {self.tensor_shape} and ranks {self.ranks} "
                f"has {sum(self.train_shapes.sizes)} numbers: concatenate its cores"
            )
            raise ShapeError(msg)
        self.flat = flat

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of the weight."""
        return math.prod(self.tensor_shape[: self.split]), math.prod(self.tensor_shape[self.split :])

    @property
    def cores(self) -> tuple[Tensor, ...]:
        """The cores (r, n, r'), as views of the flat parameter."""
        return self.train_shapes.unpack(self.flat)

    @property
    def weight(self) -> Tensor:
        """The dense matrix, put together each time it is read, with its graph.

        For code that asks a layer for its weight, be it for the dtype alone; the layer's own forward never does.
        """
        return self.to_dense()

    def to_dense(self) -> Tensor:
        """Return the dense matrix (rows, cols), calculated in at least float32."""
        wide = as_dtype(self.flat, torch.promote_types(self.flat.dtype, torch.float32))
        with without_autocast(wide.device):
            left, right = factor_pair(self.train_shapes.unpack(wide), self.split)
            return as_dtype(left @ right, self.flat.dtype)

    def _train_repr(self) -> str:
        return f"shape={self.tensor_shape}, ranks={self.ranks}, parameters={self.flat.numel()}"


class CompressedLinear(CompressedWeight):
    """y = x W^T + b with W (out, in) a tensor train, as in nn.Linear; neither W nor anything as large is formed.

    >>> import torch
    >>> flat = torch.nn.Parameter(torch.ones(2 * 3 * 2 + 2 * 4))
    >>> layer = CompressedLinear(flat, shape=(6, 4), ranks=(1, 2, 1), split=1)
    >>> layer(torch.ones(5, 4)).shape, torch.equal(layer(torch.eye(4)), layer.to_dense().T)
    (torch.Size([5, 6]), True)

    For few tokens x goes through the train core by core.  For many, `ttlib.plan` may predict that contracting the
    cores to two factors first is faster, as in `TTLinear`; that is done where both together are smaller than W.
    A train of two cores is its factors already.

    Args:
        flat, shape, ranks, split: as for `CompressedWeight`.
        bias: (out,), or None.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        flat: nn.Parameter,
        *,
        shape: Sequence[int],
        ranks: Sequence[int],
        split: int,
        bias: nn.Parameter | None = None,
    ) -> None:
        super().__init__(flat, shape=shape, ranks=ranks, split=split)
        self.out_features, self.in_features = self.sides
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b for x of shape (…, in).

        Raises ShapeError for an x with another number of features.
        """
        if x.shape[-1] != self.in_features:
            msg = f"x of shape {tuple(x.shape)} has {x.shape[-1]} features, the layer takes {self.in_features}"
            raise ShapeError(msg)
        if self._contracts_first(x):
            factors = plain_factors((self.train_shapes,), (self.flat,), None)  # U^T (k, out) and V (k, in)
            return skinny_product(x, Factors(factors.q, factors.pt), base=self.bias)
        return self._through_cores(x)

    def _through_cores(self, x: Tensor) -> Tensor:
        """Contract x with one core after another, from the last; no intermediate is much larger than x or y."""
        cores, z = self.cores, x
        for core in reversed(cores[self.split :]):
            rank, mode, after = core.shape
            z = linear(z.reshape(-1, mode * after), core.reshape(rank, mode * after))  # (T …, n r') -> (T …, r)
        first = cores[0]
        if self.split == 1:
            y = linear(z, first.reshape(first.shape[1], first.shape[2]), self.bias)
        else:
            # tokens as one more mode at the end: every product is one of two matrices
            y = right_factor([*cores[: self.split], z.t().unsqueeze(-1)])
            y = y.reshape(self.out_features, -1).t().contiguous()
            y = y if self.bias is None else y + as_dtype(self.bias, y.dtype)
        return y.view(*x.shape[:-1], self.out_features)

    def _contracts_first(self, x: Tensor) -> bool:
        """Tell whether two factors are predicted to be faster than core by core, and are smaller than W."""
        tokens, rank = x.numel() // self.in_features, self.ranks[self.split]
        dense = self.out_features * self.in_features
        if len(self.ranks) == 3 or not is_ordinary() or rank * (self.out_features + self.in_features) > dense:
            return False
        found = plan(
            self.tensor_shape[::-1],  # what x meets first comes first there
            split=len(self.tensor_shape) - self.split,
            ranks=self.ranks[::-1],
            tokens=1 << tokens.bit_length(),  # plans are cached: a few sizes serve all
            training=torch.is_grad_enabled() and self.flat.requires_grad,
            dtype=str(self.flat.dtype).rpartition(".")[2],
        )
        seconds = {candidate.strategy: candidate.seconds for candidate in found.candidates}
        return seconds["factors"] < seconds["cores"]

    def extra_repr(self) -> str:
        """Sizes, shape, ranks and the number of stored core entries."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, {self._train_repr()}, "
            f"bias={self.bias is not None}"
        )


class CompressedEmbedding(CompressedWeight):
    """Rows of W (entries, features), a tensor train, as in nn.Embedding; only the rows that are asked for are made.

    >>> import torch
    >>> flat = torch.nn.Parameter(torch.ones(2 * 2 + 2 * 5 * 2 + 2 * 4))
    >>> layer = CompressedEmbedding(flat, shape=(2, 5, 4), ranks=(1, 2, 2, 1), split=2)
    >>> layer(torch.tensor([[0, 9, 3]])).shape
    torch.Size([1, 3, 4])

    Args:
        flat, shape, ranks, split: as for `CompressedWeight`.
        padding_idx: the entry that gets no gradient, or None.
    """

    def __init__(
        self,
        flat: nn.Parameter,
        *,
        shape: Sequence[int],
        ranks: Sequence[int],
        split: int,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__(flat, shape=shape, ranks=ranks, split=split)
        self.num_embeddings, self.embedding_dim = self.sides
        self.padding_idx = padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        """Return (…, features) for integers of any shape (…).

        Raises IndexError for an integer outside of 0 … entries - 1, on an accelerator what that raises.
        """
        cores = self.cores
        with without_autocast(self.flat.device):  # an embedding has the dtype of its weight
            rows = self._left_rows(cores[: self.split], ids.reshape(-1))  # (T, k)
            for core in cores[self.split :]:
                rank, mode, after = core.shape
                rows = rows.reshape(-1, rank) @ core.reshape(rank, mode * after)  # (T …, r) -> (T …, n r')
            rows = rows.reshape(*ids.shape, self.embedding_dim)
        if self.padding_idx is None or not torch.is_grad_enabled():
            return rows
        return torch.where((ids == self.padding_idx).unsqueeze(-1), rows.detach(), rows)

    def _left_rows(self, cores: Sequence[Tensor], ids: Tensor) -> Tensor:
        """Return the rows of U (entries, k) for flat *ids*."""
        if not is_ordinary() and len(cores) > 1 and len(ids) > max(self.tensor_shape[1 : self.split]):
            return embedding(ids, left_factor(cores))  # grouping depends on the numbers, which no graph can
        indices = []
        for mode in reversed(self.tensor_shape[1 : self.split]):
            indices.append(ids % mode)
            ids = ids // mode
        rows = embedding(ids, cores[0][0])  # the leading index is out of range where the id was
        for core, index in zip(cores[1:], reversed(indices), strict=True):
            rows = _times_slices(rows, core, index)
        return rows

    def extra_repr(self) -> str:
        """Sizes, shape, ranks and the number of stored core entries."""
        return f"{self.num_embeddings}, {self.embedding_dim}, {self._train_repr()}, padding_idx={self.padding_idx}"


def _times_slices(rows: Tensor, core: Tensor, index: Tensor) -> Tensor:
    """Return (T, r'): row t of *rows* (T, r) times the slice core[:, index[t], :] of a core (r, n, r').

    A slice for every row would be a copy of T r r' numbers; from n rows on, those of one slice are multiplied together.
    """
    mode = core.shape[1]
    if len(rows) <= mode or rows.is_meta or not is_ordinary():
        return torch.bmm(rows.unsqueeze(1), core.transpose(0, 1)[index]).squeeze(1)
    order = torch.argsort(index)
    groups = rows[order].split(torch.bincount(index, minlength=mode).tolist())
    products = [group @ one for group, one in zip(groups, core.unbind(1), strict=True) if len(group)]
    return torch.cat(products)[torch.argsort(order)]

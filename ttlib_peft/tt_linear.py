"""TTLinear: a linear layer whose weight is a tensor train, multiplied without ever forming the dense matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ttlib.cores.initialize import gaussian_cores
from ttlib.errors import RankError, ShapeError
from ttlib.planning import plan
from ttlib.ranks import clip_ranks, expand_ranks
from ttlib.shape_search import search_shapes
from ttlib.shapes import check_integer, find_split
from ttlib_peft.assembly import Train, plain_factors
from ttlib_peft.eager import is_ordinary, without_autocast
from ttlib_peft.grouping import FactorGroup, Trains, sources_of
from ttlib_peft.keeper import FactorKeeper, with_offset
from ttlib_peft.skinny_product import skinny_product


class TTLinear(nn.Module):
    """y = x W + b with W (in, out) a tensor train: two skinny products, x U and then (x U) V.

    Where the rank is so high that `ttlib.plan` finds W itself cheaper than its factors, it is put together instead.

    >>> import torch, ttlib_peft
    >>> layer = ttlib_peft.TTLinear(768, 64, tensor_rank=5, shape=[8, 8, 12, 8, 8])
    >>> layer(torch.ones(2, 768)).shape, layer.flat.numel()
    (torch.Size([2, 64]), 780)

    Args:
        in_features, out_features: sizes of W, whose rows are the inputs.
        tensor_rank: an int, clipped to what the shape can carry, or the list of inner ranks as they are.
        shape: the modes; leading ones multiply to in_features.  None takes the fewest parameters.
        bias: whether to add a dense bias.
        std: standard deviation of the entries of W at the start; default 1 / sqrt(3 in), as nn.Linear has.
        generator: the random numbers of the start; None draws a seed from torch's generator.

    All cores live in one flat parameter: a module with five cores costs an optimiser one tensor, not five.  When
    `keep_start` has been called, the layer is the difference from its start (see `ttlib.noise_reduction`).

    Raises ShapeError or RankError for sizes, shapes and ranks that cannot be.
    """

    flat: nn.Parameter
    initial: Tensor | None
    offset: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        tensor_rank: int | Sequence[int],
        shape: Sequence[int] | None = None,
        bias: bool = True,
        std: float | None = None,
        generator: np.random.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_integer(in_features, name="in_features")
        self.out_features = check_integer(out_features, name="out_features")
        self.tensor_shape, self.split = choose_shape(self.in_features, self.out_features, tensor_rank, shape)
        as_given = isinstance(tensor_rank, Sequence)
        self._set_ranks((expand_ranks if as_given else clip_ranks)(self.tensor_shape, tensor_rank))
        entries, dense = sum(self.train_shapes.sizes), self.in_features * self.out_features
        if entries > max(16 * dense, 1 << 16):  # an accident, or a file that means harm
            msg = (
                f"ranks {self.ranks} make a train of {entries} numbers for a {self.in_features} x {self.out_features} "
                "matrix: choose smaller ranks"
            )
            raise RankError(msg)
        self.flat = nn.Parameter(torch.empty(entries, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        self.register_buffer("initial", None)
        self.register_buffer("offset", None)
        self.keeper = FactorKeeper()
        self.reset_parameters(std=1 / math.sqrt(3 * in_features) if std is None else std, generator=generator)

    @property
    def nominal_rank(self) -> int:
        """The rank that the sizes of W allow."""
        return min(self.in_features, self.out_features)

    @property
    def matrix_rank(self) -> int:
        """The largest rank that W can have: the bond between its rows and columns bounds it too."""
        return min(self.ranks[self.split], self.nominal_rank)

    @property
    def core_shapes(self) -> list[tuple[int, int, int]]:
        """The (r, n, r') of every core."""
        return list(self.train_shapes.cores)

    @property
    def cores(self) -> tuple[Tensor, ...]:
        """The cores, as views of the flat parameter."""
        return self._unpack(self.flat)

    @torch.no_grad()
    def reset_parameters(self, *, std: float, generator: np.random.Generator | None = None) -> None:
        """Draw Gaussian cores, so that the entries of W have standard deviation *std*; the bias becomes zero."""
        if generator is None:
            generator = np.random.default_rng(int(torch.randint(2**31, (), device="cpu")))
        if self.flat.is_meta:
            return
        drawn = gaussian_cores(self.tensor_shape, self.ranks, std=std, generator=generator)
        self.flat.copy_(torch.from_numpy(np.concatenate([core.ravel() for core in drawn])))
        if self.bias is not None:
            self.bias.zero_()

    @torch.no_grad()
    def keep_start(self) -> None:
        """Keep a frozen copy of the cores, saved beside them, and be the difference from it: zero for now."""
        self.initial = self.flat.detach().clone()

    @torch.no_grad()
    def scale_last_core(self, factor: float) -> None:
        """Multiply W by a factor in its last core alone; 0 makes W zero as LoRA's B does."""
        self.cores[-1].mul_(factor)

    @torch.no_grad()
    def keep_indices(self, kept: Sequence[Sequence[int]]) -> Tensor:
        """Cut each inner bond down to some of its indices, in the cores and in their start alike.

        >>> import ttlib_peft
        >>> layer = ttlib_peft.TTLinear(16, 4, tensor_rank=2, shape=[4, 4, 4])
        >>> entries = layer.keep_indices([[0, 1], [1]])
        >>> layer.ranks, entries.numel()
        ((1, 2, 1, 1), 20)

        `flat` becomes another, smaller parameter; which entries of the former one it holds is returned, in order, so
        that what an optimiser keeps for them can be cut alike.  Raises RankError for a bond without an index, with one
        that it does not have, or with indices that do not ascend.
        """
        inner = self.ranks[1:-1]
        if len(kept) != len(inner) or not all(
            own and list(own) == sorted({*own} & {*range(rank)}) for own, rank in zip(kept, inner, strict=True)
        ):
            msg = f"kept must give ascending indices for each of the inner bonds of ranks {inner}, got {kept}"
            raise RankError(msg)
        numbered = self._unpack(torch.arange(self.flat.numel(), device=self.flat.device))
        bonds = pairwise([[0], *map(list, kept), [0]])
        entries = torch.cat(
            [core[left][:, :, right].reshape(-1) for core, (left, right) in zip(numbered, bonds, strict=True)]
        )
        smaller = nn.Parameter(self.flat[entries], requires_grad=self.flat.requires_grad)
        smaller.grad = None if self.flat.grad is None else self.flat.grad[entries]
        self.flat = smaller
        self.initial = None if self.initial is None else self.initial[entries]
        self._set_ranks((1, *map(len, kept), 1))
        return entries

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return U (in, k) and V (k, out) with U V = W, the matrix that `forward` multiplies by."""
        return _matrix_factors((self,), self.offset)

    def to_dense(self) -> Tensor:
        """Return W (in, out)."""
        u, v = self.factors()
        with without_autocast(u.device):
            return u @ v

    def forward(self, x: Tensor) -> Tensor:
        """Return x W + b for x of shape (…, in)."""
        factors = self.keeper.factors((self,), training=self.training, offset=self.offset)
        if self._is_better_rebuilt(x):
            return linear(x, factors.q.t() @ factors.pt, self.bias)
        return skinny_product(x, factors, base=self.bias)

    def _is_better_rebuilt(self, x: Tensor) -> bool:
        """Tell whether W is so little larger than its factors that the planner would multiply by W itself."""
        few, many = (
            self.ranks[self.split] * (self.in_features + self.out_features),
            self.in_features * self.out_features,
        )
        if few <= many or not is_ordinary():  # nearly always: no plan has to be looked up
            return False
        tokens, dtype = x.numel() // self.in_features, str(self.flat.dtype).rpartition(".")[2]
        training = torch.is_grad_enabled() and self.flat.requires_grad
        chosen = plan(
            self.tensor_shape, split=self.split, ranks=self.ranks, tokens=tokens, training=training, dtype=dtype
        )
        return chosen.strategy == "reconstruct"

    def extra_repr(self) -> str:
        """Sizes, shape, ranks and the number of stored core entries."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, shape={self.tensor_shape}, "
            f"ranks={self.ranks}, parameters={self.flat.numel()}, bias={self.bias is not None}"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        # What was saved is the truth: cores that come without a start were trained without one, and subtracting
        # the start drawn here would make another function of them.  (The key is still reported as missing.)
        if prefix + "flat" in state_dict:
            for name in ("initial", "offset"):
                if prefix + name not in state_dict:
                    setattr(self, name, None)

    def _set_ranks(self, ranks: tuple[int, ...]) -> None:
        self.ranks = ranks
        bonds = pairwise(ranks)
        cores = tuple((a, mode, b) for mode, (a, b) in zip(self.tensor_shape, bonds, strict=True))
        self.train_shapes = Train(cores, self.split)

    def _unpack(self, flat: Tensor) -> tuple[Tensor, ...]:
        return self.train_shapes.unpack(flat)


def group_factors(model: nn.Module) -> None:
    """Contract the factors of all TTLinear layers of one shape in *model* together when it is trained.

    >>> import torch, ttlib_peft
    >>> model = torch.nn.Sequential(*(ttlib_peft.TTLinear(64, 64, tensor_rank=3) for _ in range(4)))
    >>> ttlib_peft.group_factors(model)
    >>> model(torch.ones(2, 64)).sum().backward()

    The results are the same to rounding, with fewer operations a step.  Adapters are grouped by their configuration
    (`LorettaRepConfig.group_factors`); this is for layers that stand in a model themselves.
    """
    group = FactorGroup()
    for module in model.modules():
        if isinstance(module, TTLinear):
            module.keeper.group = group


def choose_shape(
    rows: int, cols: int, tensor_rank: int | Sequence[int], shape: Sequence[int] | None
) -> tuple[tuple[int, ...], int]:
    """Return the modes and the split for a (rows, cols) matrix: those given, checked, or the cheapest."""
    if shape is None:
        order = len(tensor_rank) + 1 if isinstance(tensor_rank, Sequence) else None
        rank = max(tensor_rank) if isinstance(tensor_rank, Sequence) else tensor_rank
        best = search_shapes(rows, cols, ranks=rank, order=order, top=1)[0]
        return best.shape, best.split
    split = find_split(shape, rows=rows, cols=cols)
    if split == len(shape):
        msg = f"shape {tuple(shape)} has no mode left for the {cols} column(s): append a mode of {cols}"
        raise ShapeError(msg)
    return tuple(shape), split


def product_factors(a: TTLinear, b: TTLinear) -> tuple[Tensor, Tensor]:
    """Return P (in, k) and Q (k, out) with P Q = A B, as narrow as the bonds allow.

    With kept starts the result is A B - A0 B0, and k doubles.
    """
    return _matrix_factors((a, b), b.offset)


def _matrix_factors(trains: Trains, offset: Tensor | None) -> tuple[Tensor, Tensor]:
    factors = with_offset(plain_factors(*sources_of(trains)), offset)
    return factors.pt.t(), factors.q

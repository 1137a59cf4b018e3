"""TTLinear: a linear layer whose weight is a tensor train, multiplied without ever forming the dense matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ttlib.cores.contraction import factor_pair
from ttlib.cores.displacement import Displaced, displace
from ttlib.cores.initialize import gaussian_cores
from ttlib.errors import ShapeError
from ttlib.ranks import clip_ranks, expand_ranks
from ttlib.shape_search import search_shapes
from ttlib.shapes import check_integer, find_split


class TTLinear(nn.Module):
    """y = x W + b with W (in, out) a tensor train: two skinny products, x U and then (x U) V.

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
        self.ranks = (expand_ranks if as_given else clip_ranks)(self.tensor_shape, tensor_rank)
        sizes = [math.prod(core) for core in self.core_shapes]
        self.flat = nn.Parameter(torch.empty(sum(sizes), device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        self.register_buffer("initial", None)
        self.register_buffer("offset", None)
        self.reset_parameters(std=1 / math.sqrt(3 * in_features) if std is None else std, generator=generator)

    @property
    def core_shapes(self) -> list[tuple[int, int, int]]:
        """The (r, n, r') of every core."""
        return [(a, mode, b) for mode, (a, b) in zip(self.tensor_shape, pairwise(self.ranks), strict=True)]

    @property
    def cores(self) -> tuple[Tensor, ...]:
        """The cores, as views of the flat parameter."""
        return self._unpack(self.flat)

    @torch.no_grad()
    def reset_parameters(self, *, std: float, generator: np.random.Generator | None = None) -> None:
        """Draw Gaussian cores, so that the entries of W have standard deviation *std*; the bias becomes zero."""
        if generator is None:
            generator = np.random.default_rng(int(torch.randint(2**31, ())))
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

    def operands(self) -> Sequence[Any]:
        """Return the cores, displaced from their start where it is kept: what the contractions multiply."""
        if self.initial is None:
            return self.cores
        return displace(self.cores, self._unpack(self.initial.to(self.flat.dtype)))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return U (in, k) and V (k, out) with U V = W, what `forward` multiplies by."""
        return with_offset(difference(*factor_pair(self.operands(), self.split)), self.offset)

    def to_dense(self) -> Tensor:
        """Return W (in, out)."""
        u, v = self.factors()
        return u @ v

    def forward(self, x: Tensor) -> Tensor:
        """Return x W + b for x of shape (…, in)."""
        u, v = self.factors()
        return self.add_bias((x @ u) @ v)

    def add_bias(self, y: Tensor) -> Tensor:
        """Return y + b, or y where the layer has no bias."""
        return y if self.bias is None else y + self.bias

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

    def _unpack(self, flat: Tensor) -> tuple[Tensor, ...]:
        ends = accumulate(math.prod(core) for core in self.core_shapes)
        return tuple(
            flat[end - math.prod(core) : end].view(core) for core, end in zip(self.core_shapes, ends, strict=True)
        )


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


def difference(left: Tensor | Displaced, right: Tensor | Displaced) -> tuple[Tensor, Tensor]:
    """Return two plain factors of left @ right, or of its displacement from the start."""
    if isinstance(left, Displaced) and isinstance(right, Displaced):
        # (A - A0) B + A0 (B - B0), as one product of two blocks
        return torch.cat([left.delta, left.base], dim=1), torch.cat([right.value, right.delta], dim=0)
    return left, right  # type: ignore[return-value]  # both are tensors: a layer displaces all its cores or none


def with_offset(factors: tuple[Tensor, Tensor], offset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return factors of U V - offset, the same number taken from every entry."""
    if offset is None:
        return factors
    u, v = factors
    shift = -offset.to(v.dtype) * v.new_ones((1, v.shape[1]))
    return torch.cat([u, u.new_ones((u.shape[0], 1))], dim=1), torch.cat([v, shift], dim=0)


def product_factors(a: TTLinear, b: TTLinear) -> tuple[Tensor, Tensor]:
    """Return P (in, k) and Q (k, out) with P Q = A B, as narrow as the bonds allow.

    A B is one long train; it is cut at its narrowest place: the bond at A's split, the size between A and B, or
    the bond at B's split.  With kept starts the result is A B - A0 B0, and k doubles.
    """
    u_a, v_a = factor_pair(a.operands(), a.split)  # (in, s) (s, r)
    u_b, v_b = factor_pair(b.operands(), b.split)  # (r, t) (t, out)
    s, t, r = a.ranks[a.split], b.ranks[b.split], a.out_features
    if r < min(s, t):
        left, right = u_a.matmul(v_a), u_b.matmul(v_b)
    elif s <= t:
        left, right = u_a, v_a.matmul(u_b).matmul(v_b)
    else:
        left, right = u_a.matmul(v_a.matmul(u_b)), v_b
    return with_offset(difference(left, right), b.offset)

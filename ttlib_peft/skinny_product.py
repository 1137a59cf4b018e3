"""y = base + s x U V for a matrix of few columns U and few rows V: what a layer does, and what it keeps for backward.

Four things make it cheaper than the same line in plain operations.  The numbers between the two products are kept as
(k, tokens), the shape in which multiplying by a tall matrix is fast.  The scale is applied there, and the sum with the
frozen layer's result is part of the second product.  Of a change U V - U0 V0 the derivative needs x U alone (k columns
where the forward product has 2 k).  And x is kept in its own dtype, not as the copy that it is multiplied as.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import linear

from ttlib_peft.assembly import Factors
from ttlib_peft.eager import autocast_dtype, is_ordinary, without_autocast

# Up to here the time goes into starting operations, and autograd's own start faster than ours.
FEW_TOKENS = 256


def skinny_product(
    x: Tensor, factors: Factors, *, base: Tensor | None = None, scale: float = 1.0, cast: bool = False
) -> Tensor:
    """Return base + scale x P Q for x (…, in).

    >>> import torch
    >>> factors = Factors(torch.ones(1, 3), torch.full((1, 2), 0.5))
    >>> skinny_product(torch.ones(4, 3), factors, scale=2.0)[0]
    tensor([3., 3.])

    Args:
        x: the input.
        factors: P^T (k, in) and Q (k, out).
        base: what to add to: a result (…, out), whose dtype is kept, or a bias (out).
        scale: a number to multiply x P Q by.
        cast: whether x may have another dtype than the factors; it is multiplied in theirs.
    """
    if not is_ordinary():
        return plain_product(x, factors, base=base, scale=scale, cast=cast)
    dtype = tall_dtype(factors.q)
    if not cast and x.dtype != dtype == factors.q.dtype:
        return plain_product(x, factors, base=base, scale=scale)  # raises what torch says of two dtypes, if it does
    if not torch.is_grad_enabled():
        return _product(x, base, factors, scale, dtype)[0]
    if x.numel() < FEW_TOKENS * x.shape[-1]:
        return plain_product(x, factors, base=base, scale=scale, cast=cast)
    return _SkinnyProduct.apply(x, base, factors.pt, factors.q, factors.moving, scale, dtype)


def tall_dtype(factor: Tensor) -> torch.dtype:
    """Return the dtype that products with a tall *factor* are made in: its own, or autocast's as in nn.Linear.

    >>> import torch
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     tall_dtype(torch.ones(5, 768))
    torch.bfloat16
    """
    dtype = None if factor.dtype == torch.float64 else autocast_dtype(factor.device)  # autocast leaves float64 alone
    return factor.dtype if dtype is None else dtype


def plain_product(
    x: Tensor, factors: Factors, *, base: Tensor | None = None, scale: float = 1.0, cast: bool = False
) -> Tensor:
    """Return the same with ordinary operations, for few tokens, compilers, torch.func and second derivatives."""
    pt, q = factors.pt, factors.q
    inner = linear(as_dtype(x, pt.dtype) if cast else x, pt)
    y = (inner if scale == 1 else inner * scale) @ q
    if base is None:
        return y
    return y + as_dtype(base, y.dtype) if base.ndim < x.ndim else base + as_dtype(y, base.dtype)


class _SkinnyProduct(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: Tensor | None,
        pt: Tensor,
        q: Tensor,
        moving: int,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        y, inner = _product(x, base, Factors(pt, q), scale, dtype)
        trained = ctx.needs_input_grad[2]
        xu = None
        if trained:
            xu = inner if moving == len(inner) else inner[:moving] + inner[moving:]  # x U = x dU + x U0
        ctx.scale, ctx.dtype, ctx.base = scale, dtype, None if base is None else (base.ndim < x.ndim, base.dtype)
        ctx.save_for_backward(x if trained else None, xu, pt, q)
        ctx.x = x.shape, x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        differentiate = _differentiable_gradients if torch.is_grad_enabled() else _gradients
        with without_autocast(grad.device):  # of the caller of backward: the dtypes are those of forward
            gx, gp, gq = differentiate(ctx, grad)
        gb = None
        if ctx.needs_input_grad[1]:
            is_bias, dtype = ctx.base
            gb = as_dtype(as_rows(grad, grad.dtype).sum(dim=0) if is_bias else grad, dtype)
        return gx, gb, gp, gq, None, None, None


def _product(
    x: Tensor, base: Tensor | None, factors: Factors, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return y and what stands between the two products, (k, tokens): x dU above x U0 where there is a start."""
    inner = as_dtype(factors.pt, dtype).mm(as_rows(x, dtype).t())
    if base is not None and base.ndim < x.ndim:
        base = as_dtype(base, dtype)
    y = add_product(base, inner.t(), as_dtype(factors.q, dtype), scale)
    return y if x.ndim == 2 else y.view(*x.shape[:-1], y.shape[1]), inner


def add_product(base: Tensor | None, inner: Tensor, q: Tensor, scale: float) -> Tensor:
    """Return base + scale inner Q (tokens, out), rounded once, to the dtype of a base that is a result."""
    if base is None:
        return inner.mm(q) if scale == 1 else scaled_mm(inner, q, scale)
    rows = as_rows(base, base.dtype)
    if base.dtype == q.dtype:
        return torch.addmm(rows, inner, q, alpha=scale)
    wide = torch.promote_types(base.dtype, q.dtype)
    if wide == base.dtype:
        return torch.add(rows, inner.mm(q), alpha=scale)
    return rows.to(wide).addmm_(as_dtype(inner, wide), as_dtype(q, wide), alpha=scale).to(base.dtype)


def scaled_mm(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Return scale left right in one product."""
    return torch.addmm(left.new_empty(()), left, right, beta=0, alpha=scale)  # beta=0: what is added is not read


def as_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (…, n) as (tokens, n)."""
    return as_dtype(x if x.ndim == 2 else x.reshape(-1, x.shape[-1]), dtype)


def as_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return *x* in a dtype; where it has it already, for a tenth of the time that torch takes."""
    return x if x.dtype == dtype else x.to(dtype)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    x, xu, pt, q = ctx.saved_tensors
    (shape, x_dtype), scale, dtype = ctx.x, ctx.scale, ctx.dtype
    rows = as_rows(grad, dtype)
    # (k, tokens): g V^T, above g dV^T where there is a start
    back = scaled_mm(as_dtype(q, dtype), rows.t(), scale)
    gx = gp = gq = None
    if ctx.needs_input_grad[0]:
        gx = as_dtype(back.t().mm(as_dtype(pt, dtype)), x_dtype).view(shape)  # (g V^T) dU^T + (g dV^T) U0^T
    if xu is not None:
        gp = padded(back[: len(xu)].mm(as_rows(x, dtype)), pt)
        gq = padded(scaled_mm(xu, rows, scale), q)
    return gx, gp, gq


def padded(moving: Tensor, like: Tensor) -> Tensor:
    """Return the gradient of P^T or Q from that of the rows that move; what the others get is nobody's."""
    if moving.shape == like.shape:
        return as_dtype(moving, like.dtype)
    whole = torch.zeros_like(like)
    whole[: len(moving)] = moving
    return whole


def _differentiable_gradients(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    x, _, pt, q = ctx.saved_tensors
    needed = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
    if x is None:  # not kept, and any will do: y is linear in it and the factors are constants
        x = grad.new_zeros(ctx.x[0], dtype=ctx.x[1]).requires_grad_()
    y = plain_product(x, Factors(pt, q), scale=ctx.scale, cast=True)
    moving = [tensor for tensor, wanted in zip((x, pt, q), needed, strict=True) if wanted]
    found = iter(torch.autograd.grad(y, moving, grad.to(y.dtype), create_graph=True))
    return [next(found) if wanted else None for wanted in needed]

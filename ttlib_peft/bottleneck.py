"""h + s (f(h) - f0(h)), f(h) = up(act(down(h))): a bottleneck of two skinny matrices, and what backward needs of it.

Only what stands between the tall matrices and the bottleneck is kept, k numbers a token; the bottleneck itself is made
again from it in the backward pass, for two products of a small matrix.  With starts, and z = z0 + dz the input of the
activation, a = act(z), a0 = act(z0):

    a Up - a0 Up0 = (a dU + (a - a0) U0) V0 + (a U) dV        with Up = U V,  U = U0 + dU,  V = V0 + dV

so every term holds a difference.  At the start dz is exactly zero, so a = a0, dU = 0 and dV = 0, and the sum is zero.

Inside torch.autocast the products with the tall matrices are in its dtype, as those of nn.Linear.  The bottleneck stays
in the dtype of the cores: in half precision z0 + dz would round away a dz of less than a part in 256.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ttlib_peft.assembly import Factors
from ttlib_peft.eager import is_ordinary, without_autocast
from ttlib_peft.skinny_product import add_product, as_dtype, as_rows, padded, scaled_mm, tall_dtype

Activation = Callable[[Tensor], Tensor]


class Bottleneck(NamedTuple):
    """The two matrices with their biases.  Both have starts or none has."""

    down: Factors
    down_bias: Tensor
    up: Factors
    up_bias: Tensor


def bottleneck(x: Tensor, h: Tensor, layers: Bottleneck, activation: Activation, *, scale: float) -> Tensor:
    """Return h + scale (f(x) - f0(x)) of the dtype of *h*; x is h, or h with dropout.

    Args:
        x: what goes through the bottleneck, (…, width).
        h: what the result is added to.
        layers: the matrices and biases.
        activation: what stands between them, elementwise.
        scale: a number.
    """
    down, up = layers.down, layers.up
    dtype = tall_dtype(down.q)
    with without_autocast(x.device):
        if not is_ordinary() or not torch.is_grad_enabled():
            return _forward(x, h, layers, activation, scale, dtype)[0]
        tensors = down.pt, down.q, layers.down_bias, up.pt, up.q, layers.up_bias, down.v0, up.v0
        return _Bottleneck.apply(x, h, activation, scale, dtype, *tensors)


class _Bottleneck(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h: Tensor, activation: Activation, scale: float, dtype: torch.dtype, *tensors: Any
    ) -> Tensor:
        y, inner, au = _forward(x, h, _layers(tensors), activation, scale, dtype)
        ctx.activation, ctx.scale, ctx.dtype, ctx.h_dtype = activation, scale, dtype, h.dtype
        ctx.save_for_backward(x, inner, au, *tensors)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        differentiate = _differentiable_gradients if torch.is_grad_enabled() else _gradients
        with without_autocast(grad.device):  # of the caller of backward: the dtypes are those of forward
            gx, *rest = differentiate(ctx, grad)
        return gx, as_dtype(grad, ctx.h_dtype), None, None, None, *rest


def _layers(tensors: Sequence[Any]) -> Bottleneck:
    pt_down, q_down, down_bias, pt_up, q_up, up_bias, v0_down, v0_up = tensors
    return Bottleneck(Factors(pt_down, q_down, v0_down), down_bias, Factors(pt_up, q_up, v0_up), up_bias)


def _forward(
    x: Tensor, h: Tensor, layers: Bottleneck, activation: Activation, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, x P and a U, the latter two as (k, tokens); products with the tall matrices are made in *dtype*."""
    up, k = layers.up, layers.up.moving
    inner = _mm(layers.down.pt, as_rows(x, dtype).t())  # x dU above x U0, or x U
    z, z0 = _bottleneck_inputs(inner, layers)
    a = activation(z)
    au = ahead = up.pt.mm(a.t())  # a dU above a U0, or a U
    q = up.q
    if up.v0 is not None and z0 is not None:
        delta = torch.addmm(ahead[:k], up.pt[k:], (a - activation(z0)).t())  # a dU + (a - a0) U0
        au = ahead[:k] + ahead[k:]
        ahead, q = torch.cat((delta, au)), torch.cat((up.v0, q[k:]))
    ahead, q = torch.cat((ahead, ahead.new_ones((1, ahead.shape[1])))), torch.cat((q, layers.up_bias[None]))
    return add_product(h, as_dtype(ahead, dtype).t(), as_dtype(q, dtype), scale).view(h.shape), inner, au


def _mm(few: Tensor, tall: Tensor, scale: float = 1.0) -> Tensor:
    """Return scale few tall, multiplied in the dtype of the tall matrix and given in that of the few rows."""
    rows = as_dtype(few, tall.dtype)
    return as_dtype(rows.mm(tall) if scale == 1 else scaled_mm(rows, tall, scale), few.dtype)


def _bottleneck_inputs(inner: Tensor, layers: Bottleneck) -> tuple[Tensor, Tensor | None]:
    """Return z and z0, (tokens, width), from x P.  (The biases start at zero.)."""
    down = layers.down
    if down.v0 is None:
        return torch.addmm(layers.down_bias, inner.t(), down.q), None
    z0 = inner[down.moving :].t().mm(down.v0)
    return torch.addmm(z0 + layers.down_bias, inner.t(), down.q), z0


def _gradients(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    x, inner, au, *tensors = ctx.saved_tensors
    down, _, up, _ = layers = _layers(tensors)
    rows, scale, k = as_rows(grad, ctx.dtype), ctx.scale, up.moving
    z, z0 = _bottleneck_inputs(inner, layers)
    to_up = _mm(torch.cat((au, au.new_ones((1, au.shape[1])))), rows, scale)
    v = up.q[:k] if up.v0 is None else torch.cat((up.q[:k], up.v0))
    back = _mm(v, rows.t(), scale)  # (k, tokens): g V^T, above g V0^T where there is a start
    ut, gz0 = up.pt, None
    if up.v0 is not None and z0 is not None:
        ut = up.pt[k:] + up.pt[:k]
        gz0 = _through(ctx.activation, z0, back[k:].t().mm(up.pt[k:]))[1]
    a, gz = _through(ctx.activation, z, back[:k].t().mm(ut))
    gx, gu, gv = _down_gradients(as_rows(x, ctx.dtype), inner, down, gz, None if gz0 is None else gz - gz0)
    down_gradients = padded(gu, down.pt), padded(gv, down.q), gz.sum(dim=0)
    up_gradients = padded(back[:k].mm(a), up.pt), padded(to_up[:-1], up.q), to_up[-1]  # Q = [V; dV] as one half
    return [as_dtype(gx, x.dtype).view(x.shape), *down_gradients, *up_gradients, None, None]


def _down_gradients(
    x: Tensor, inner: Tensor, down: Factors, gz: Tensor, gz0: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, U and V of z = z0 + x (U V - U0 V0), from those of z and of z0 = x U0 V0."""
    k = down.moving
    back = down.q.mm(gz.t())  # g V^T, above g dV^T
    xu = inner
    if down.v0 is not None and gz0 is not None:
        back[k:].addmm_(down.v0, gz0.t())
        xu = inner[:k] + inner[k:]
    gx = as_dtype(back.t(), x.dtype).mm(as_dtype(down.pt, x.dtype))
    return gx, _mm(back[:k], x), xu.mm(gz)


def _through(activation: Activation, z: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return act(z) and the gradient of z from that of act(z)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        a = activation(z)
        return a.detach(), torch.autograd.grad(a, z, grad)[0]


def _differentiable_gradients(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    x, _, _, *tensors = ctx.saved_tensors
    needed = [ctx.needs_input_grad[0], *ctx.needs_input_grad[5:]]
    y = _forward(x, torch.zeros_like(grad), _layers(tensors), ctx.activation, ctx.scale, ctx.dtype)[0]
    moving = [tensor for tensor, wanted in zip((x, *tensors), needed, strict=True) if wanted]
    found = iter(torch.autograd.grad(y, moving, grad, create_graph=True, allow_unused=True))
    return [next(found) if wanted else None for wanted in needed]

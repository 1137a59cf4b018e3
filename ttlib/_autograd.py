"""What the array API leaves out about derivatives: constants, graphs, and a mark that says 'first derivatives only'.

A library is taken from `sys.modules`: whoever passes an array of it has imported it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from ttlib._types import Array
from ttlib.errors import BackendError

_REFUSAL = (
    "truncation (decompose, round) has first derivatives in reverse mode only: take the second one, or the "
    "forward-mode one, of something that is not truncated"
)


def stop_gradient(x: Array) -> Array:
    """Return *x* as a constant: the same numbers, outside any autograd graph."""
    if hasattr(x, "detach"):
        return x.detach()
    return sys.modules["jax"].lax.stop_gradient(x) if is_abstract(x) else x


def is_traced(x: Array) -> bool:
    """Return whether a derivative is being followed through *x*, backward or forward."""
    if hasattr(x, "requires_grad"):
        return bool(x.requires_grad) or sys.modules["torch"].autograd.forward_ad.unpack_dual(x).tangent is not None
    return is_abstract(x)


def is_abstract(x: Array) -> bool:
    """Return whether *x* is a JAX tracer, whose numbers may not be known yet."""
    return type(x).__name__.endswith("Tracer")


def is_transformed(x: Array) -> bool:
    """Return whether *x* stands for a tensor inside torch.func.grad, vmap and the like, which hide its numbers."""
    if not hasattr(x, "requires_grad"):
        return False
    functorch = getattr(sys.modules["torch"]._C, "_functorch", None)
    return functorch is not None and bool(functorch.is_functorch_wrapped_tensor(x))


def first_derivative_only(x: Array) -> Array:
    """Return *x*, marked so that a second derivative through it, or a forward-mode one, raises instead of being wrong.

    For results whose derivative is put together from constants: it is right once, but those constants do not move.
    """
    if hasattr(x, "detach"):
        return _torch_mark().apply(x)
    return _jax_mark()(x) if is_abstract(x) else x


@functools.cache
def _torch_mark() -> Any:
    torch = sys.modules["torch"]

    class Refuse(torch.autograd.Function):  # type: ignore[name-defined,misc]  # torch is not imported here
        """The identity on a gradient, which may not be differentiated."""

        @staticmethod
        def forward(ctx: Any, gradient: Any, x: Any) -> Any:  # noqa: ARG004  # x: what it would be differentiated by
            return gradient.view_as(gradient)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:  # noqa: ARG004
            raise BackendError(_REFUSAL)

    class FirstDerivativeOnly(torch.autograd.Function):  # type: ignore[name-defined,misc]
        """The identity, differentiable once and backward."""

        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            (x,) = ctx.saved_tensors
            return Refuse.apply(gradient, x) if torch.is_grad_enabled() else gradient  # enabled by create_graph=True

        @staticmethod
        def jvp(ctx: Any, tangent: Any) -> Any:  # noqa: ARG004
            raise BackendError(_REFUSAL)

    return FirstDerivativeOnly


@functools.cache
def _jax_mark() -> Callable[[Array], Array]:
    jax = sys.modules["jax"]
    identity = jax.custom_vjp(lambda x: x)
    once = jax.custom_jvp(lambda x: x)

    def refuse(*_: Any) -> Any:
        raise BackendError(_REFUSAL)

    once.defjvp(refuse)
    identity.defvjp(lambda x: (x, None), lambda _, gradient: (once(gradient),))
    return identity  # type: ignore[no-any-return]

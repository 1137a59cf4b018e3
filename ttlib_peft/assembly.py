"""From flat parameters to factors: one contraction, written down once and run for any number of layers together.

A layer's matrix is one train W = U V, or the product A B of two.  Where the start is kept it is W - W0, and W0 is a
constant, so the contraction needs dU = U - U0 and dV = V - V0 alone; they are carried through every product (see
`ttlib.cores.displacement`), but their derivative is that of U and V: half the products of differentiating them
line by line.

The contraction is taken from `ttlib.cores.contraction` by running it on shapes; what it multiplied, in which order, is
a list of steps that a batched product executes and a loop in the other direction differentiates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ttlib.cores.contraction import factor_pair
from ttlib.cores.displacement import Displaced, displace
from ttlib_peft.eager import without_autocast

Shape3 = tuple[int, int, int]

# Trains in half precision are contracted in float32: more exact, and faster where such small products have no kernel.
_HALF = (torch.float16, torch.bfloat16)


class Train(NamedTuple):
    """Shapes of the cores of one train, and how many of them number the rows."""

    cores: tuple[Shape3, ...]
    split: int

    @property
    def sizes(self) -> list[int]:
        """Numbers in each core."""
        return [math.prod(core) for core in self.cores]

    def unpack(self, flat: Tensor) -> tuple[Tensor, ...]:
        """Return the cores, views of *flat*."""
        # one split, whose derivative is one concatenation; slices would each add up in a zero vector
        return tuple(part.view(core) for part, core in zip(flat.split(self.sizes), self.cores, strict=True))


# One train, or two that are multiplied.
Layout = tuple[Train, ...]


@cache
def sizes_of(layout: Layout) -> list[int]:
    """Return the numbers in each train."""
    return [sum(train.sizes) for train in layout]


class Factors(NamedTuple):
    """A matrix as P Q.

    Without a start it is U V: P = U and Q = V.  With one it is the change U V - U0 V0 = dU V + U0 dV: P = [dU | U0]
    and Q = [V; dV].  P is kept transposed, as (k, in): multiplying by a matrix of few columns is three times slower
    than by one of few rows.
    """

    pt: Tensor  # P^T, (k, in) or (2 k, in)
    q: Tensor  # (k, out) or (2 k, out)
    v0: Tensor | None = None  # the start of V, (k, out)

    @property
    def moving(self) -> int:
        """How many leading rows of P^T move: all, or those of dU."""
        return self.pt.shape[0] if self.v0 is None else self.v0.shape[0]


def contract(layout: Layout, cores: Sequence[Sequence[Any]]) -> tuple[Any, Any]:
    """Return U (in, k) and V (k, out) of one train, or P and Q with P Q = A B of two, as narrow as the bonds allow.

    A B is one long train; it is cut at its narrowest place: the bond at A's split, the size between A and B, or
    the bond at B's split.
    """
    pairs = [factor_pair(own, train.split) for own, train in zip(cores, layout, strict=True)]
    if len(pairs) == 1:
        return pairs[0]
    (u_a, v_a), (u_b, v_b) = pairs  # (in, s) (s, r), (r, t) (t, out)
    s, r, t = u_a.shape[1], v_a.shape[1], v_b.shape[0]
    if r < min(s, t):
        return u_a.matmul(v_a), u_b.matmul(v_b)
    if s <= t:
        return u_a, v_a.matmul(u_b).matmul(v_b)
    return u_a.matmul(v_a.matmul(u_b)), v_b


def plain_factors(layout: Layout, flats: Sequence[Tensor], starts: Sequence[Tensor] | None) -> Factors:
    """Contract with ordinary operations, which everything that follows tensors understands."""
    dtype = flats[0].dtype
    if dtype in _HALF:
        wide = plain_factors(
            layout, [f.float() for f in flats], None if starts is None else [s.float() for s in starts]
        )
        return Factors(*[None if part is None else part.to(dtype) for part in wide])  # type: ignore[arg-type]
    with without_autocast(flats[0].device):
        return _plain_factors(layout, flats, starts)


def _plain_factors(layout: Layout, flats: Sequence[Tensor], starts: Sequence[Tensor] | None) -> Factors:
    cores: Sequence[Sequence[Any]] = [train.unpack(flat) for train, flat in zip(layout, flats, strict=True)]
    if starts is not None:
        bases = [train.unpack(start) for train, start in zip(layout, starts, strict=True)]
        cores = [displace(own, base) for own, base in zip(cores, bases, strict=True)]
    left, right = contract(layout, cores)
    if isinstance(left, Displaced):
        pt = torch.cat((left.delta.t(), left.base.t()))
        return Factors(pt, torch.cat((right.value, right.delta)), right.base)
    return Factors(left.t().contiguous(), right)


class Step(NamedTuple):
    """Multiply operand `left`, as (rows, inner), by operand `right`, as (inner, cols)."""

    left: int
    right: int
    rows: int
    inner: int
    cols: int


@dataclass(frozen=True, slots=True)
class Program:
    """The products of a contraction.  Operand i is core i; those after the cores are the results of the steps."""

    sizes: tuple[int, ...]
    steps: tuple[Step, ...]
    roots: tuple[int, int]
    rows: int
    rank: int
    cols: int


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A shape that writes down what it is multiplied by."""

    operand: int
    shape: tuple[int, ...]
    steps: list[Step] = field(repr=False)
    leaves: int

    def reshape(self, shape: tuple[int, ...]) -> _Recorded:
        known = -math.prod(shape)  # the one -1 makes the product negative
        full = tuple(math.prod(self.shape) // known if n == -1 else n for n in shape)
        return _Recorded(self.operand, full, self.steps, self.leaves)

    def matmul(self, other: _Recorded) -> _Recorded:
        (rows, inner), (_, cols) = self.shape, other.shape
        self.steps.append(Step(self.operand, other.operand, rows, inner, cols))
        return _Recorded(self.leaves + len(self.steps) - 1, (rows, cols), self.steps, self.leaves)


@cache
def program(layout: Layout) -> Program:
    """Return the products of `contract` for trains of these shapes."""
    steps: list[Step] = []
    sizes = [size for train in layout for size in train.sizes]
    operands = iter(range(len(sizes)))
    cores = [[_Recorded(next(operands), core, steps, len(sizes)) for core in train.cores] for train in layout]
    left, right = contract(layout, cores)
    (rows, rank), (_, cols) = left.shape, right.shape
    return Program(tuple(sizes), tuple(steps), (left.operand, right.operand), rows, rank, cols)


class Start:
    """The kept starts of a number of layers: the constants of their contraction, every operand of it."""

    def __init__(self, layout: Layout, starts: Sequence[Sequence[Tensor]]) -> None:
        plan = program(layout)
        # tensors made in inference mode could not be used in training
        with torch.inference_mode(False), torch.no_grad(), without_autocast(starts[0][0].device):
            self.packed = pack(starts)
            self.operands = _multiply_all(plan, _wide(self.packed))
            left, right = (self.operands[root] for root in plan.roots)
            self.u0t = _rows(left, plan.rows, plan.rank).transpose(1, 2).contiguous()
            self.v0 = _rows(right, plan.rank, plan.cols)


class Contracted:
    """The factors of a number of layers of one layout as numbers, and the operands that they were made from.

    Args:
        layout: shapes of the trains of each layer.
        packed: the flats as `pack` returns them, a copy that nobody writes to.
        start: the kept starts of these layers.
    """

    def __init__(self, layout: Layout, packed: Tensor, start: Start | None) -> None:
        self.layout, self.start, self.plan = layout, start, program(layout)
        plan = self.plan
        dtype, packed = packed.dtype, _wide(packed)
        with torch.no_grad(), without_autocast(packed.device):
            if start is None:
                values = deltas = _multiply_all(plan, packed)
            else:
                values, deltas = _displace_all(plan, packed, start)
            left, right = (deltas[root] for root in plan.roots)
            left, right = left.reshape(-1, plan.rows, plan.rank), right.reshape(-1, plan.rank, plan.cols)
            if start is None:
                self.pt, self.q = left.transpose(1, 2).contiguous(), right.contiguous()
            else:
                self.pt = torch.cat((left.transpose(1, 2), start.u0t), dim=1)
                self.q = torch.cat((start.v0 + right, right), dim=1)
        self.pt, self.q = self.pt.to(dtype), self.q.to(dtype)
        self.values = [
            None if i in plan.roots else value for i, value in enumerate(values)
        ]  # nothing multiplies a root


class Assembly(Function):
    """Give contracted factors their graph: flats in, every P^T and then every Q out.

    It keeps what it needs on itself and saves no tensor through autograd's hooks: a checkpoint that recomputes one of
    the layers sees no difference between factors that were contracted then and those that were not.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, contracted: Contracted, spent: Callable[[], None] | None, *flats: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.contracted, ctx.spent, ctx.flats = contracted, spent, flats
        return (*contracted.pt.unbind(), *contracted.q.unbind())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:  # noqa: D102
        if ctx.spent is not None:
            ctx.spent()
        with without_autocast(ctx.contracted.pt.device):
            if torch.is_grad_enabled():
                return (None, None, *_differentiable_gradients(ctx, grads))
            return (None, None, *_gradients(ctx.contracted, grads))


def assemble(contracted: Contracted, flats: Sequence[Tensor], spent: Callable[[], None] | None = None) -> list[Factors]:
    """Return the factors of every layer, with a graph to *flats*: those of the first layer's trains, the second's ….

    *spent* is called when a backward pass comes through.
    """
    out = Assembly.apply(contracted, spent, *flats)
    layers, start = len(out) // 2, contracted.start
    v0s: Sequence[Tensor | None] = [None] * layers if start is None else start.v0.to(out[0].dtype).unbind()
    return [Factors(*own) for own in zip(out[:layers], out[layers:], v0s, strict=True)]


def pack(layers: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return (layers, n): a copy of the flats of every layer, one after another."""
    with torch.no_grad():
        return torch.cat([flat for own in layers for flat in own]).view(len(layers), -1)


def _wide(numbers: Tensor) -> Tensor:
    return numbers.float() if numbers.dtype in _HALF else numbers


def _multiply_all(plan: Program, packed: Tensor) -> list[Tensor]:
    """Return every operand, (layers, …), from the cores on."""
    operands = list(packed.split(plan.sizes, dim=1))
    for step in plan.steps:
        operands.append(torch.bmm(_left(operands, step), _right(operands, step)))  # (layers, rows, cols)
    return operands


def _displace_all(plan: Program, packed: Tensor, start: Start) -> tuple[list[Tensor], list[Tensor]]:
    """Return every operand and its displacement from the start: A B - A0 B0 = (A - A0) B + A0 (B - B0)."""
    bases = start.operands
    values, deltas = (list(part.split(plan.sizes, dim=1)) for part in (packed, packed - _wide(start.packed)))
    for step in plan.steps:
        delta = torch.baddbmm(
            torch.bmm(_left(deltas, step), _right(values, step)), _left(bases, step), _right(deltas, step)
        )
        base = bases[len(deltas)]
        deltas.append(delta)
        values.append(base if len(values) in plan.roots else base + delta)  # nothing multiplies a root
    return values, deltas


def _rows(operand: Tensor, rows: int, cols: int) -> Tensor:
    return operand.reshape(-1, rows, cols).contiguous()  # a core alone is a view of the packed numbers


def _left(operands: Sequence[Any], step: Step) -> Tensor:
    return operands[step.left].view(-1, step.rows, step.inner)


def _right(operands: Sequence[Any], step: Step) -> Tensor:
    return operands[step.right].view(-1, step.inner, step.cols)


def _gradients(contracted: Contracted, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The derivative of the plain contraction, from its operands; None for layers that were not used."""
    layout, plan, values = contracted.layout, contracted.plan, contracted.values
    layers, leaves = len(grads) // 2, len(plan.sizes)
    like = next((grad for grad in grads if grad is not None), None)
    if like is None:
        return [None] * (layers * len(layout))
    to: list[Any] = [None] * (leaves + len(plan.steps))
    left, right = _wide(_stack(grads[:layers], contracted.pt)), _wide(_stack(grads[layers:], contracted.q))
    if contracted.start is not None:  # U0 does not move, and V = V0 + dV as dV does
        left, right = left[:, : plan.rank], right[:, : plan.rank] + right[:, plan.rank :]
    to[plan.roots[0]], to[plan.roots[1]] = left.transpose(1, 2), right
    for operand, step in reversed(tuple(enumerate(plan.steps, start=leaves))):
        grad = to[operand].reshape(layers, step.rows, step.cols)
        to[step.left] = torch.bmm(grad, _right(values, step).transpose(1, 2))
        to[step.right] = torch.bmm(_left(values, step).transpose(1, 2), grad)
    packed = torch.cat([core.reshape(layers, -1) for core in to[:leaves]], dim=1)
    parts = packed.to(like.dtype).view(-1).split(sizes_of(layout) * layers)
    used = [grads[i] is not None or grads[layers + i] is not None for i in range(layers)]
    return [part if used[i // len(layout)] else None for i, part in enumerate(parts)]


def _stack(grads: Sequence[Tensor | None], like: Tensor) -> Tensor:
    zero = None if all(grad is not None for grad in grads) else torch.zeros_like(like[0])
    return torch.stack([zero if grad is None else grad for grad in grads])  # type: ignore[misc]


def _differentiable_gradients(ctx: Any, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The same with ordinary operations, for derivatives of derivatives."""
    layout, start, layers = ctx.contracted.layout, ctx.contracted.start, len(grads) // 2
    found: list[Tensor | None] = []
    for i in range(layers):
        flats = ctx.flats[i * len(layout) : (i + 1) * len(layout)]
        factors = plain_factors(layout, flats, None if start is None else start.packed[i].split(sizes_of(layout)))
        came = [(y, g) for y, g in zip(factors[:2], (grads[i], grads[layers + i]), strict=True) if g is not None]
        moving = [flat for flat in flats if flat.requires_grad]
        outputs, weights = [y for y, _ in came], [g for _, g in came]
        grad = iter(torch.autograd.grad(outputs, moving, weights, create_graph=True, allow_unused=True) if came else ())
        found += [next(grad, None) if flat.requires_grad else None for flat in flats]
    return found

"""The order in which a plan contracts a train with x, as a tree of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from matplotlib.axes import Axes

from ttlib.errors import BackendError
from ttlib.planning import ContractionPlan
from ttlib.planning.network import Network
from ttlib.plot.style import BLUE, PALE, SMALL, VERMILION, axes, compact, dress

Quantity = Literal["flops", "elements"]

_TIMES = "\N{MULTIPLICATION SIGN}"
_FEW_OPERANDS = 7  # up to here there is room for their sizes
_MOST_UPRIGHT = 10  # beyond that names stand on end
_MOST_LARGE = 14  # beyond that numbers are small


class ContractionRow(NamedTuple):
    """One product of a plan: what it multiplies, the FLOPs (2 m k n), and the elements of its result."""

    step: int
    left: str
    right: str
    flops: int
    elements: int


@dataclass(frozen=True, slots=True)
class _Node:
    """A point of the tree; operands have no children."""

    x: float
    y: float
    children: tuple[int, ...] = ()


def contraction_rows(plan: ContractionPlan, /) -> list[ContractionRow]:
    """Return the products of a plan in their order; "step 1" names the result of the first.

    >>> import ttlib
    >>> from ttlib.plot import contraction_rows
    >>> plan = ttlib.plan([8, 8, 12, 8, 8], split=3, ranks=5, tokens=2048)
    >>> sum(row.flops for row in contraction_rows(plan)) == plan.flops
    True

    These are the products forward; a plan for training has those of the gradients in its `flops` as well.
    Raises BackendError for anything but a plan.
    """
    if not isinstance(plan, ContractionPlan):
        msg = f"a contraction tree needs the plan that ttlib.plan(…) returns, got {type(plan).__name__}"
        raise BackendError(msg)
    network = plan.network
    indices = [frozenset(layout) for layout in network.operands]
    names = _operand_names(network)
    rows = []
    for step, (i, j) in enumerate(plan.pick.path, 1):
        flops = 2 * _size(network, indices[i] | indices[j])
        indices.append(indices[i] ^ indices[j])
        rows.append(ContractionRow(step, names[i], names[j], flops, _size(network, indices[-1])))
        names.append(f"step {step}")
    return rows


def contraction_tree(plan: ContractionPlan, /, *, show: Quantity = "flops", ax: Axes | None = None) -> Axes:
    """Draw which pairs a plan contracts: the cores and x at the bottom, y at the top, a dot for every product.

    >>> import ttlib
    >>> from ttlib.plot import contraction_tree
    >>> plan = ttlib.plan([8, 8, 12, 8, 8], split=3, ranks=5, tokens=2048)
    >>> ax = contraction_tree(plan)
    >>> ax.get_xlabel().startswith(plan.strategy)
    True

    Args:
        plan: what `ttlib.plan` returns; the tree of another strategy is that of
            `dataclasses.replace(plan, strategy="tree")`.
        show: what stands at a product: "flops", multiplications plus additions, or "elements" of its result.
        ax: draw here instead of into a new figure.

    The area of a dot is its share of the largest, which has another colour.

    Raises BackendError for anything but a plan, ValueError for another quantity.
    """
    if show not in get_args(Quantity):
        msg = f"show {show!r} does not exist: choose one of {', '.join(map(repr, get_args(Quantity)))}"
        raise ValueError(msg)
    rows = contraction_rows(plan)
    ax = axes(ax)
    nodes = _nodes(plan)
    _draw_branches(ax, nodes)
    _draw_products(ax, nodes, [getattr(row, show) for row in rows])
    unit = "FLOPs" if show == "flops" else "elements"
    total = f"{compact(sum(row.flops for row in rows))} FLOPs forward in {len(rows)} products"
    most = f"largest result {compact(max(row.elements for row in rows))} elements"
    dress(ax, xlabel=f"{plan.strategy}: {total}, {most}\n(at the dots: {unit})", ylabel="", grid=None)
    _name_operands(ax, plan.network, nodes)
    ax.set(yticks=[], xlim=(-0.6, len(rows) + 0.6), ylim=(-0.02, nodes[-1].y + 0.6))
    ax.spines[:].set_visible(False)
    return ax


def _operand_names(network: Network) -> list[str]:
    return [*(f"core_{k}" for k in range(1, len(network.shape) + 1)), "x"]


def _size(network: Network, indices: frozenset[int]) -> int:
    return math.prod(network.sizes[index] for index in indices)


def _nodes(plan: ContractionPlan) -> list[_Node]:
    """All operands and results, numbered as in the path; no two branches cross."""
    operands = len(plan.network.operands)
    children: list[tuple[int, ...]] = [()] * operands
    first = list(range(operands))  # the leftmost core of what a node stands for
    for pair in plan.pick.path:
        children.append(tuple(sorted(pair, key=first.__getitem__)))
        first.append(min(first[i] for i in pair))
    place = {leaf: float(at) for at, leaf in enumerate(_leaves(children, len(children) - 1))}
    nodes: list[_Node] = []
    for number, own in enumerate(children):
        if own:
            below = [nodes[child] for child in own]
            centre = sum(node.x for node in below) / len(below)
            nodes.append(_Node(centre, 1.0 + max(node.y for node in below), own))
        else:
            nodes.append(_Node(place[number], 0.0))
    return nodes


def _leaves(children: Sequence[tuple[int, ...]], root: int) -> list[int]:
    """The operands from left to right.  Without recursion: a chain of a thousand cores is as deep."""
    found, left = [], [root]
    while left:
        node = left.pop()
        left.extend(reversed(children[node]))
        if not children[node]:
            found.append(node)
    return found


def _draw_branches(ax: Axes, nodes: Sequence[_Node]) -> None:
    for node in nodes:
        for child in (nodes[number] for number in node.children):
            ax.plot([child.x, child.x, node.x], [child.y, node.y, node.y], color=PALE, linewidth=1.0, zorder=1)


def _name_operands(ax: Axes, network: Network, nodes: Sequence[_Node]) -> None:
    names, modes = _operand_names(network), math.prod(network.shape[: network.split])
    if len(names) <= _FEW_OPERANDS:
        shapes = [*(_TIMES.join(map(str, own)) for own in network.core_shapes), f"{network.tokens}{_TIMES}{modes}"]
        names = [f"{name}\n{shape}" for name, shape in zip(names, shapes, strict=True)]
    rotation = 0 if len(names) <= _MOST_UPRIGHT else 90
    ax.set_xticks([nodes[leaf].x for leaf in range(len(names))], names, rotation=rotation, fontsize=SMALL)
    ax.tick_params(axis="x", length=0)


def _draw_products(ax: Axes, nodes: Sequence[_Node], amounts: Sequence[int]) -> None:
    """Dots with their numbers, each on the side where its branch to the next product leaves room."""
    largest = max(amounts)
    size = SMALL if len(amounts) <= _MOST_LARGE else 6
    firsts = {node.children[0] for node in nodes if node.children}
    for number, amount in enumerate(amounts, len(nodes) - len(amounts)):
        node, colour = nodes[number], VERMILION if amount == largest else BLUE
        ax.scatter(node.x, node.y, s=12 + 110 * amount / max(largest, 1), color=colour, zorder=2, linewidths=0)
        left = number in firsts
        ax.annotate(
            compact(amount), (node.x, node.y), (-6 if left else 6, 1), textcoords="offset points", va="bottom",
            ha="right" if left else "left", fontsize=size, color=colour, annotation_clip=False,
        )  # fmt: skip

"""The strategies as contraction paths.  Integers only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from ttlib.planning.network import Layout, Network, Path

Strategy: TypeAlias = Literal["reconstruct", "factors", "cores", "tree"]

# Up to here the best tree is found in milliseconds.  The search grows exponentially, that for a good tree does not.
_MOST_OPERANDS_SEARCHED = 17


def paths(network: Network) -> list[tuple[Strategy, Path]]:
    """Return every path worth a prediction, with the name of its strategy.

    - reconstruct: the cores to W in the order of the fewest FLOPs, then x W;
    - factors: the cores on either side of the split to U (in, r) and V (r, out), then (x U) V;
    - cores: core by core through x, beginning with the first input mode or with the last;
    - tree: the pairwise tree with the fewest FLOPs of all.
    """
    x, split = len(network.shape), network.split
    inputs, outputs = range(split), range(split, x)
    factors = _factors(inputs, outputs, x)
    forward, _ = _chain([x, *inputs, *outputs], result=x + 1)
    backward, _ = _chain([x, *reversed(inputs), *outputs], result=x + 1)
    return [
        ("reconstruct", _reconstruct(network)),
        ("factors", factors),
        ("cores", forward),
        ("cores", backward),
        ("tree", _fewest_flops(network, network.operands, network.output, known=(factors, forward))),
    ]


def linear(path: Path) -> Path:
    """Return *path* in opt_einsum's usual convention: both operands leave the list, their product is appended.

    >>> linear(((0, 2), (1, 3)))
    ((0, 2), (0, 1))
    """
    from opt_einsum.paths import ssa_to_linear  # noqa: PLC0415  # a fifth of a second, for who plans only

    return tuple((i, j) for i, j in ssa_to_linear(path))


def _factors(inputs: range, outputs: range, x: int) -> Path:
    left, u = _chain(inputs, result=x + 1)
    right, v = _chain([*reversed(outputs)], result=x + 1 + len(left))
    return (*left, *right, (x, u), (x + 1 + len(left) + len(right), v))


def _reconstruct(network: Network) -> Path:
    x = len(network.shape)
    modes = tuple(range(x))  # the indices of W
    one_by_one, _ = _chain(range(x), result=x)
    # Among the cores alone, the first result has the number that x has otherwise.
    assembly = _fewest_flops(network, network.operands[:x], modes, known=(one_by_one,))
    pairs = [(i + (i >= x), j + (j >= x)) for i, j in assembly]
    return (*pairs, (x, 2 * x - 1))


def _chain(operands: Sequence[int], *, result: int) -> tuple[Path, int]:
    """Contract the first two, their product with the third, and so on; return the path and where it ends.

    The first product gets the number *result*.
    """
    pairs: list[tuple[int, int]] = []
    product = operands[0]
    for operand in operands[1:]:
        pairs.append((product, operand))
        product = result + len(pairs) - 1
    return tuple(pairs), product


def _fewest_flops(network: Network, operands: Sequence[Layout], output: Layout, *, known: Sequence[Path]) -> Path:
    """Return the path with the fewest FLOPs; one that costs more than a *known* one is not followed up."""
    from opt_einsum import paths as searches  # noqa: PLC0415  # as above

    # The best tree for no tokens is that for one.
    sizes = {index: max(size, 1) for index, size in enumerate(network.sizes)}
    sets = [frozenset(operand) for operand in operands]
    search = searches.greedy
    if len(operands) <= _MOST_OPERANDS_SEARCHED:
        most = min(_multiplications(path, sets, sizes) for path in known)
        search = searches.DynamicProgramming(minimize="flops", cost_cap=most)
    found = search(sets, frozenset(output), sizes)
    return tuple((i, j) for i, j in searches.linear_to_ssa(found))


def _multiplications(path: Path, operands: Sequence[frozenset[int]], sizes: Mapping[int, int]) -> int:
    indices, total = list(operands), 0
    for i, j in path:
        total += math.prod(sizes[index] for index in indices[i] | indices[j])
        indices.append(indices[i] ^ indices[j])
    return total

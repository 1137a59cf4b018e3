"""Which bond indices are worth their parameters: numbers only, no array.

An index of a bond costs the two slices of cores that meet in it.  From the full ranks down, the index that is least
important for the parameters it frees is given up, whichever bond and layer it is in, until the budget is met.  A price
can only rise while its neighbours are given up, so a heap with prices looked at again when they come up finds it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from ttlib.cost import count_parameters

# By train, inner bond and index.
Importance = Sequence[Sequence[Sequence[float]]]
Kept = list[list[list[int]]]


def select_indices(shapes: Sequence[Sequence[int]], importance: Importance, budget: int) -> Kept:
    """Return the indices of every inner bond that stay, ascending, so that at most *budget* parameters are left.

    >>> select_indices([(4, 4), (4, 4)], [[[9.0, 1.0, 7.0]], [[2.0, 3.0, 0.5]]], budget=24)
    [[[0, 2]], [[1]]]

    Every bond keeps at least one, and no rank is left that its neighbours cannot carry (see `ttlib.clip_ranks`) where
    there was none before.  The caller sees to it that the budget is not below that of ranks 1.
    """
    ranks = _Ranks(shapes, importance)
    _lower(ranks, budget)
    _raise(ranks, budget)
    return [
        [sorted(_by_importance(bond)[:rank]) for bond, rank in zip(own, kept[1:-1], strict=True)]
        for own, kept in zip(importance, ranks.ranks, strict=True)
    ]


def _by_importance(bond: Sequence[float]) -> list[int]:
    return sorted(range(len(bond)), key=lambda index: -bond[index])


class _Ranks:
    """The ranks of all trains while they are chosen; within a bond the most important indices stay."""

    def __init__(self, shapes: Sequence[Sequence[int]], importance: Importance) -> None:
        self.shapes = shapes
        self.sorted = [[sorted(bond, reverse=True) for bond in train] for train in importance]
        self.ranks = [[1, *map(len, train), 1] for train in importance]
        self.parameters = sum(map(_parameters, shapes, self.ranks))

    def bonds(self) -> Iterator[tuple[int, int]]:
        """Every inner bond as (train, bond), counted from 1."""
        return ((train, bond) for train, own in enumerate(self.sorted) for bond in range(1, len(own) + 1))

    def cost(self, train: int, bond: int) -> int:
        """Parameters in the two slices that meet in one index."""
        shape, ranks = self.shapes[train], self.ranks[train]
        return ranks[bond - 1] * shape[bond - 1] + shape[bond] * ranks[bond + 1]

    def price(self, train: int, bond: int, index: int) -> float:
        """Importance for each parameter of the index of that place in the order of importance."""
        return self.sorted[train][bond - 1][index] / self.cost(train, bond)

    def can_lower(self, train: int, bond: int) -> bool:
        """Tell whether the neighbours can still be carried with one index less."""
        shape, ranks, rank = self.shapes[train], self.ranks[train], self.ranks[train][bond] - 1
        return ranks[bond - 1] <= shape[bond - 1] * rank and ranks[bond + 1] <= rank * shape[bond]

    def can_raise(self, train: int, bond: int) -> bool:
        """Tell whether the neighbours can carry one index more."""
        shape, ranks, rank = self.shapes[train], self.ranks[train], self.ranks[train][bond] + 1
        full = len(self.sorted[train][bond - 1])
        return rank <= min(full, ranks[bond - 1] * shape[bond - 1], shape[bond] * ranks[bond + 1])

    def change(self, train: int, bond: int, by: int) -> None:
        self.parameters += by * self.cost(train, bond)
        self.ranks[train][bond] += by


def _parameters(shape: Sequence[int], ranks: Sequence[int]) -> int:
    return count_parameters(shape, ranks=ranks)


def _lower(ranks: _Ranks, budget: int) -> None:
    """Give up the cheapest indices until the budget is met."""

    def offer(train: int, bond: int) -> None:
        rank = ranks.ranks[train][bond]
        if rank > 1:
            heapq.heappush(heap, (ranks.price(train, bond, rank - 1), train, bond))

    heap: list[tuple[float, int, int]] = []
    waiting: dict[int, list[int]] = {}  # bonds whose neighbours have to go down first, by train
    for place in ranks.bonds():
        offer(*place)
    while ranks.parameters > budget:
        if heap:
            price, train, bond = heapq.heappop(heap)
            if ranks.price(train, bond, ranks.ranks[train][bond] - 1) > price:
                offer(train, bond)
                continue
            if not ranks.can_lower(train, bond):
                waiting.setdefault(train, []).append(bond)
                continue
        else:  # modes of 1 tie the bonds around them together: one has to go first
            train = next(iter(waiting))
            bond = waiting[train].pop()
        ranks.change(train, bond, -1)
        for other in (bond, *waiting.pop(train, ())):
            offer(train, other)


def _raise(ranks: _Ranks, budget: int) -> None:
    """Take the dearest indices back that fit into what the last one given up left over."""
    given_up = [
        (-ranks.price(train, bond, rank), train, bond)
        for train, bond in ranks.bonds()
        for rank in [ranks.ranks[train][bond]]
        if rank < len(ranks.sorted[train][bond - 1])
    ]
    for _, train, bond in sorted(given_up):
        if ranks.parameters + ranks.cost(train, bond) <= budget and ranks.can_raise(train, bond):
            ranks.change(train, bond, 1)

"""From a contraction path to kernels: how every operand becomes a matrix, and what must be copied for it.  Integers.

A product sums over what its operands share.  An operand whose shared indices lie together at its end, or at its
beginning, is a matrix as it lies, straight or transposed; any other is copied first.  How fast a processor multiplies
can depend on which way the matrices lie, and how the result lies decides whether it must be copied later: of all ways
to carry out one product, the one with the least predicted time is taken, one product after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ttlib._types import Shape
from ttlib.planning.kernels import Copy, Product
from ttlib.planning.network import Layout, Network, Path

Kernel: TypeAlias = Product | Copy

# To see a matrix transposed costs the processor nothing and Python a call: this part of the overhead of a kernel.
_TRANSPOSE = 0.25


@dataclass(frozen=True, slots=True)
class MatrixView:
    """Operand number `slot` as a matrix; -1 stands for a size that depends on the number of tokens."""

    slot: int
    shape: Shape  # one axis an index, where they must be permuted by …
    axes: Shape  # … this; both are empty where the operand is a matrix as it lies
    matrix: Shape
    transposed: bool


@dataclass(frozen=True, slots=True)
class Program:
    """Products to carry out, the view of the last one as y (tokens, out), and what all this costs forward."""

    steps: tuple[tuple[MatrixView, MatrixView], ...]
    result: MatrixView
    kernels: tuple[Kernel, ...]
    peak_elements: int  # of the largest array that is made
    saved_elements: int  # of the arrays that are made and that the gradients need


@dataclass(frozen=True, slots=True)
class _Form:
    """One way for an operand to be a matrix: its free and its summed indices, whichever come first."""

    slot: int
    free: Layout
    summed: Layout
    summed_first: bool
    copied: bool

    @property
    def layout(self) -> Layout:
        return self.summed + self.free if self.summed_first else self.free + self.summed


def lower(network: Network, path: Path, seconds: Callable[[Kernel], float]) -> Program:
    """Turn *path* into the program with the least time, given what one kernel takes (its backward pass included)."""
    return _Lowering(network, path, seconds).run()


class _Lowering:
    def __init__(self, network: Network, path: Path, seconds: Callable[[Kernel], float]) -> None:
        self.network, self.path, self.seconds = network, path, seconds
        self.layouts = list(network.operands)
        self.kernels: list[Kernel] = []
        self.saved = 0
        self.summed: list[frozenset[int]] = []  # what the product sums over that operand number `slot` goes into
        self.death: dict[int, int] = {}  # the number of the product that sums over an index
        self._look_ahead()

    def _look_ahead(self) -> None:
        indices = [frozenset(layout) for layout in self.layouts]
        consumer: dict[int, frozenset[int]] = {}
        for number, (i, j) in enumerate(self.path):
            shared = indices[i] & indices[j]
            consumer[i] = consumer[j] = shared
            self.death.update(dict.fromkeys(shared, number))
            indices.append(indices[i] ^ indices[j])
        self.summed = [consumer[slot] for slot in range(len(indices) - 1)]

    def run(self) -> Program:
        steps = []
        for i, j in self.path:
            left, right = min(self._ways(i, j), key=lambda pair: self._time(*pair))
            self.kernels += self._kernels(left, right)
            self.layouts.append(left.free + right.free)
            self.saved += sum(self._size(form.layout) for form in (left, right) if self._is_made(form))
            steps.append((self._view(left, transposed=left.summed_first), self._view(right, not right.summed_first)))
        result, output = self.layouts[-1], self.network.output
        if result != output:
            self.kernels.append(self._copy(result, output))
        tokens, modes = output[:1], output[1:]
        last = _Form(len(self.layouts) - 1, tokens, modes, summed_first=False, copied=result != output)
        made = [self._size(layout) for layout in self.layouts[len(self.network.operands) :]]
        peak = max(*made, *(kernel.size for kernel in self.kernels if isinstance(kernel, Copy)))
        return Program(tuple(steps), self._view(last, transposed=False), tuple(self.kernels), peak, self.saved)

    def _ways(self, i: int, j: int) -> Iterator[tuple[_Form, _Form]]:
        """Yield the pairs of forms whose product this contraction can be."""
        large, small = sorted((i, j), key=lambda slot: self._size(self.layouts[slot]), reverse=True)
        small_lies = self._as_it_lies(small)
        if large_lies := self._as_it_lies(large):
            large_forms = [large_lies]
        else:
            shared = self.summed[small]
            order = tuple(index for index in self.layouts[small] if index in shared)
            large_forms = self._copies(large, order)
        for form in large_forms:
            matches = [small_lies] if small_lies and small_lies.summed == form.summed else []
            for other in (*matches, *self._copies(small, form.summed)):
                yield form, other
                yield other, form

    def _as_it_lies(self, slot: int) -> _Form | None:
        layout, summed = self.layouts[slot], self.summed[slot]
        count = len(summed)
        if summed.issuperset(layout[-count:]):
            return _Form(slot, layout[:-count], layout[-count:], summed_first=False, copied=False)
        if summed.issuperset(layout[:count]):
            return _Form(slot, layout[count:], layout[:count], summed_first=True, copied=False)
        return None

    def _copies(self, slot: int, order: Layout) -> list[_Form]:
        """Return the two copies whose summed indices are in this *order*.

        The others are sorted by when they will be summed over, the soonest next to where the summed ones are: then the
        results need no copies any more.
        """
        output = self.network.output
        free = [index for index in self.layouts[slot] if index not in self.summed[slot]]
        kept = tuple(index for index in output if index in free)
        dying = sorted((index for index in free if index not in kept), key=lambda index: (self.death[index], index))
        return [
            _Form(slot, (*dying, *kept), order, summed_first=True, copied=True),
            _Form(slot, (*kept, *reversed(dying)), order, summed_first=False, copied=True),
        ]

    def _kernels(self, left: _Form, right: _Form) -> list[Kernel]:
        kernels: list[Kernel] = [self._copy(self.layouts[f.slot], f.layout) for f in (left, right) if f.copied]
        m, k, n = self._size(left.free), self._size(left.summed), self._size(right.free)
        return [*kernels, Product(m, k, n, left.summed_first, not right.summed_first)]

    def _time(self, left: _Form, right: _Form) -> float:
        """Predict the time of a product and its copies, and of the copy that its result will need."""
        kernels = self._kernels(left, right)
        result, slot = left.free + right.free, len(self.layouts)
        if slot == len(self.summed):
            copied = result != self.network.output
        else:
            count = len(self.summed[slot])
            copied = not (self.summed[slot].issuperset(result[-count:]) or self.summed[slot].issuperset(result[:count]))
        if copied:
            kernels.append(Copy(self._size(result)))
        transposes = left.summed_first + (not right.summed_first)
        return sum(map(self.seconds, kernels)) + transposes * _TRANSPOSE * self.seconds(Copy(0))

    def _is_made(self, form: _Form) -> bool:
        """Whether a product reads an array that neither x nor a core is."""
        return form.slot >= len(self.network.operands) or (
            form.copied and self._copy(self.layouts[form.slot], form.layout).size > 0
        )

    def _copy(self, before: Layout, after: Layout) -> Copy:
        """Return the copy into another order; it writes nothing where only axes of size 1 change places."""
        sizes = self.network.sizes
        moves = [index for index in before if sizes[index] != 1] != [index for index in after if sizes[index] != 1]
        return Copy(self._size(after) * moves)

    def _size(self, layout: Layout) -> int:
        sizes = self.network.sizes
        return math.prod([sizes[index] for index in layout])

    def _view(self, form: _Form, transposed: bool) -> MatrixView:
        layout = self.layouts[form.slot]
        permuted = form.layout != layout
        shape = tuple(self._extent((index,)) for index in layout) if permuted else ()
        axes = tuple(layout.index(index) for index in form.layout) if permuted else ()
        matrix = (form.summed, form.free) if form.summed_first else (form.free, form.summed)
        return MatrixView(form.slot, shape, axes, tuple(map(self._extent, matrix)), transposed)

    def _extent(self, layout: Layout) -> int:
        return -1 if self.network.token_index in layout else self._size(layout)

"""The two things that a processor is asked to do: multiply two matrices, and copy an array into another order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Product:
    """A (m, k) matrix times a (k, n) matrix, each as it lies in memory or transposed."""

    m: int
    k: int
    n: int
    left_transposed: bool = False
    right_transposed: bool = False

    @property
    def flops(self) -> int:
        """Multiplications and additions, each counted: 2 m k n."""
        return 2 * self.m * self.k * self.n

    @property
    def elements(self) -> int:
        """What is read and written."""
        return self.m * self.k + self.k * self.n + self.m * self.n

    def backward(self) -> tuple[Product, Product]:
        """Return the products for the gradients of both matrices, given that of the result.

        As torch multiplies them: the gradient of a matrix that lies transposed is made transposed.
        """
        m, k, n, left, right = self.m, self.k, self.n, self.left_transposed, self.right_transposed
        of_left = Product(k, n, m, right, True) if left else Product(m, n, k, False, not right)
        of_right = Product(n, m, k, True, left) if right else Product(k, m, n, not left, False)
        return of_left, of_right


@dataclass(frozen=True, slots=True)
class Copy:
    """An array written out in another order of its axes."""

    size: int

    @property
    def flops(self) -> int:
        """A copy calculates nothing."""
        return 0

    @property
    def elements(self) -> int:
        """What is read and written."""
        return 2 * self.size

    def backward(self) -> tuple[Copy]:
        """Return the copy that brings the gradient back into the first order."""
        return (self,)

"""The spectrum of every unfolding that any candidate shape of a matrix needs, from as few products as there are.

In C order the unfolding of a bond depends on the product L of the modes to its left alone, so that all candidates share
it.  And the Gram matrix of a left side that divides L is a partial trace of that of L: the Gram matrix of the largest
left side, and that of the largest right side, hold nearly all spectra that there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ttlib.checkpoint.bond_spectrum import BondSpectrum
from ttlib.checkpoint.leading_values import fits, leading_values
from ttlib.checkpoint.matrix_blocks import MatrixBlocks, matrix_blocks
from ttlib.errors import ShapeError
from ttlib.linalg import gram
from ttlib.shapes import check_integer

Numbers = np.ndarray[Any, Any]

# Units in the last place by which an energy inside products can be off, as `ttlib.linalg.columns` found it.
_NOISE_UNITS = 16
# Of a bond that is not calculated in full, one value in so many, and between so many and so many.
_SHARE, _LEAST_TOP, _MOST_TOP = 16, 64, 256


def bond_spectra(
    matrix: Numbers, lefts: Iterable[int], /, *, limit: int = 1024, top: int | None = None, name: str = "the matrix"
) -> dict[int, BondSpectrum]:
    """Return the spectrum of the unfolding matrix.reshape(left, -1) for each of *lefts*.

    >>> import numpy as np
    >>> W = np.random.default_rng(0).standard_normal((12, 10)).astype(np.float32)
    >>> found = bond_spectra(W, [3, 12, 24])
    >>> bool(np.allclose(found[24].values, np.linalg.svd(W.reshape(24, 5), compute_uv=False), rtol=1e-5))
    True

    Args:
        matrix: (rows, cols), a numpy array or memory map of half, single or double precision; it is read in blocks of
            at most 32 MiB, never written, and never copied as a whole if it is C-contiguous.
        lefts: divisors of rows * cols.
        limit: an unfolding with a side up to this gets all its singular values, from a Gram matrix in double
            precision: values below about 5e-7 of the norm are noise (`floor`).
        top: how many leading values the others get, from a block Krylov space in the precision of the matrix (single
            for half): estimates from below, which converge from the largest down, with the exact energy of what is
            beyond.  Default: a sixteenth of the short side, but 64 to 256.  Where the space would not be small, all
            values are calculated after all.
        name: what errors call the matrix.

    Raises:
        ShapeError: for a left side that does not divide the entries, or a limit or top below 1.
        NonFiniteError, BackendError: as `ttlib.checkpoint.matrix_blocks.matrix_blocks`.

    Source: Oseledets 2011, section 2 (unfoldings); `ttlib.checkpoint.leading_values` for the Krylov space.
    """
    limit, top = check_integer(limit, name="limit"), None if top is None else check_integer(top, name="top")
    blocks = matrix_blocks(matrix, name=name)
    wanted = {_check_left(left, blocks.entries.size, name) for left in lefts}
    if not math.isfinite(blocks.norm):
        msg = f"the norm of {name} is beyond the range of float64: divide it by 2**{blocks.exponent}"
        raise ShapeError(msg)
    sides = {left: min(left, blocks.entries.size // left) for left in wanted}
    tops = {left: top or min(max(short // _SHARE, _LEAST_TOP), _MOST_TOP) for left, short in sides.items()}
    small = {left for left, short in sides.items() if short <= limit or not fits(short, tops[left])}
    found = {left: _leading(blocks, left, tops[left]) for left in wanted - small}
    from_left = [left for left in small if left <= blocks.entries.size // left]
    from_right = [blocks.entries.size // left for left in small if left > blocks.entries.size // left]
    for spectrum in (*_from_grams(blocks, from_left, on_left=True), *_from_grams(blocks, from_right, on_left=False)):
        found[spectrum.left] = spectrum
    return dict(sorted(found.items()))


def _check_left(left: int, size: int, name: str) -> int:
    left = check_integer(left, name="each of lefts")
    if size % left:
        msg = f"a left side of {left} does not divide the {size} entries of {name}: take products of leading modes"
        raise ShapeError(msg)
    return left


def _from_grams(blocks: MatrixBlocks, sides: Iterable[int], *, on_left: bool) -> Iterator[BondSpectrum]:
    """Yield the spectra of the unfoldings that have one of *sides*, which are the short ones, on the left or right."""
    products: dict[int, Numbers] = {}
    for side in sorted(sides, reverse=True):
        left = side if on_left else blocks.entries.size // side
        whole = next((larger for larger in products if larger % side == 0), side)
        if whole == side:
            products[side] = _gram(blocks, left)
        yield _complete(blocks, _partial_trace(products[whole], side, on_left=on_left), left, noisy_rows=whole)


def _gram(blocks: MatrixBlocks, left: int) -> Numbers:
    """Return the Gram matrix of the short side of the unfolding (left, …), in double precision."""
    return np.asarray(sum(gram.gram_matrix(block.T) for block in blocks.tall(left)))


def _partial_trace(whole: Numbers, side: int, *, on_left: bool) -> Numbers:
    """Sum over the modes that lie between a bond at *side* and that of the Gram matrix *whole*."""
    inner = len(whole) // side
    if on_left:  # rows are numbered (side, inner)
        return np.asarray(np.trace(whole.reshape(side, inner, side, inner), axis1=1, axis2=3))
    return np.asarray(np.trace(whole.reshape(inner, side, inner, side), axis1=0, axis2=2))


def _complete(blocks: MatrixBlocks, product: Numbers, left: int, *, noisy_rows: int) -> BondSpectrum:
    squares = np.maximum(0.0, np.linalg.eigvalsh(product)[::-1])
    squares *= blocks.energy / (float(squares.sum()) or 1.0)  # every bond has the same energy, to the last digits
    noise = float(np.finfo(np.float64).eps) * max(_NOISE_UNITS, noisy_rows) * blocks.energy
    return _spectrum(blocks, left, squares, floor=noise)


def _leading(blocks: MatrixBlocks, left: int, top: int) -> BondSpectrum:
    found = leading_values(blocks, left, top)
    inside = float(found.squares[top:].sum())
    short = min(left, blocks.entries.size // left) if blocks.dtype == np.float64 else 0
    noise = float(np.finfo(blocks.dtype).eps) * max(_NOISE_UNITS, short) * blocks.energy
    return _spectrum(blocks, left, found.squares[:top], rest=inside + found.outside, rest_low=inside, floor=noise)


def _spectrum(blocks: MatrixBlocks, left: int, squares: Numbers, **energies: float) -> BondSpectrum:
    """Return squares and energies of the scaled matrix as values in the unit of the matrix."""
    values = tuple(blocks.in_its_unit(value) for value in np.sqrt(squares).tolist())
    in_unit = {key: blocks.in_its_unit(math.sqrt(energy)) for key, energy in energies.items()}
    return BondSpectrum(left, blocks.entries.size // left, values, **in_unit)

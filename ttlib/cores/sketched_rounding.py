"""Rounding of a sum of trains without forming it: randomise, then orthogonalise.

Al Daas, Ballard, Cazeaux, Hallman, Miedlar, Pasha, Reid, Saibaba, 'Randomized algorithms for rounding in the
tensor-train format', SIAM J. Sci. Comput. 45 (2023), Algorithm 3.2 with the structure of a sum (section 3.4).  A train
of Gaussian cores sketches the right interface of each term; a QR of the summed sketches gives each orthogonal core.
The cost grows linearly with the number of terms, where exact rounding grows with its cube.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Cores, Ranks
from ttlib.cores.check import shape_of


def sketch_sum(terms: Sequence[Cores], ranks: Ranks, generator: np.random.Generator) -> Cores:
    """Return left-orthogonal cores of about the sum of *terms*, of ranks up to *ranks* (clipped to the shape)."""
    xp = _arrays.namespace(terms[0][0])
    shape = shape_of(terms[0])
    sketches = _sketch_right_interfaces(terms, shape, ranks, generator)
    carries = [cores[0] for cores in terms]  # L_k G_k (l, n, r) of each term
    result: list[Array] = []
    for bond in range(1, len(shape)):
        left, mode = carries[0].shape[:2]
        tall = [_arrays.reshape(carry, (left * mode, -1)) for carry in carries]  # (l n, r)
        sketched = sum((t @ s for t, s in zip(tall, sketches[bond - 1], strict=True)), start=0.0)  # (l n, sketch)
        q, _ = xp.linalg.qr(sketched)  # (l n, l')
        result.append(_arrays.reshape(q, (left, mode, -1)))
        carries = [_advance(q, t, cores[bond]) for t, cores in zip(tall, terms, strict=True)]
    return (*result, sum(carries[1:], start=carries[0]))


def _advance(q: Array, tall: Array, core: Array) -> Array:
    left, mode, right = core.shape
    return _arrays.reshape(_arrays.adjoint(q) @ tall @ _arrays.reshape(core, (left, mode * right)), (-1, mode, right))


def _sketch_right_interfaces(
    terms: Sequence[Cores], shape: Sequence[int], ranks: Ranks, generator: np.random.Generator
) -> list[list[Array]]:
    """Return, for each inner bond, the sketch (r, l) of the right interface of each term, on one scale a bond."""
    like = terms[0][0]
    ones = _arrays.namespace(like).ones((1, 1), dtype=like.dtype, device=_arrays.device(like))
    current = [ones for _ in terms]
    sketches = []
    for k, (left, right) in reversed(list(enumerate(pairwise(ranks)))[1:]):
        noise = _arrays.from_numpy(generator.standard_normal((shape[k] * right, left)), like=like)  # (n l', l)
        current = [_project(cores[k], sketch) @ noise for cores, sketch in zip(terms, current, strict=True)]
        peak = max(_arrays.largest_magnitude(sketch) for sketch in current)
        current = [_arrays.ldexp(sketch, -_arrays.exponent(peak)) for sketch in current]
        sketches.append(current)
    return sketches[::-1]


def _project(core: Array, sketch: Array) -> Array:
    left, mode, right = core.shape
    return _arrays.reshape(_arrays.reshape(core, (left * mode, right)) @ sketch, (left, -1))  # (r, n l')

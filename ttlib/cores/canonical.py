"""Canonical forms: QR sweeps that make cores orthogonal without changing the tensor.

Source: Oseledets 2011, Algorithm 2 (first half); the mixed form is that of Holtz, Rohwedder, Schneider 2012, 'On
manifolds of tensors of fixed TT-rank', section 3.
"""

from __future__ import annotations

from ttlib import _arrays
from ttlib._types import Array, Cores
from ttlib.cores.algebra import reverse


def orthogonalise(cores: Cores, centre: int) -> tuple[Cores, int]:
    """Return cores and k with the same tensor but for the factor 2**k: left-orthogonal before *centre*, right after.

    The centre holds the norm.  No rank grows; bonds larger than their side of the train can carry shrink.
    """
    left, exponent = _sweep(cores[: centre + 1])
    right, power = _sweep_back((left[-1], *cores[centre + 1 :]))
    return (*left[:-1], *right), exponent + power


def norm(cores: Cores) -> tuple[float, int]:
    """Return m and k with ||A|| = m * 2**k, from orthogonal factors: differences keep their digits.

    The square root of an inner product would lose half of them where a sum of trains nearly cancels.
    """
    xp = _arrays.namespace(*cores)
    carry, total = xp.ones((1, 1), dtype=cores[0].dtype, device=_arrays.device(cores[0])), 0  # (k, r)
    for unscaled in cores:
        core, core_exponent = _arrays.normalise(unscaled)
        left, mode, right = core.shape
        tall = _arrays.reshape(carry @ _arrays.reshape(core, (left, mode * right)), (-1, right))  # (k n, r')
        carry, exponent = _arrays.normalise(_arrays.triangular_factor(tall))
        total += exponent + core_exponent
    return _arrays.scalar(xp.abs(carry[0, 0])), total


def _sweep(cores: Cores) -> tuple[Cores, int]:
    """Make all cores but the last left-orthogonal."""
    xp = _arrays.namespace(*cores)
    swept: list[Array] = []
    core, exponent = _arrays.normalise(cores[0])
    for unscaled in cores[1:]:
        following, following_exponent = _arrays.normalise(unscaled)
        left, mode, right = core.shape
        q, r = xp.linalg.qr(_arrays.reshape(core, (left * mode, right)))  # (r n, k) (k, r')
        swept.append(_arrays.reshape(q, (left, mode, -1)))
        _, mode, right = following.shape
        core = _arrays.reshape(r @ _arrays.reshape(following, (-1, mode * right)), (-1, mode, right))  # (k, n, r'')
        core, power = _arrays.normalise(core)
        exponent += power + following_exponent
    return (*swept, core), exponent


def _sweep_back(cores: Cores) -> tuple[Cores, int]:
    """Make all cores but the first right-orthogonal."""
    swept, exponent = _sweep(reverse(cores))
    return reverse(swept), exponent

"""The rows of a run in the order they are seen: from the seed alone, so that every method sees the same batches."""

from __future__ import annotations

import random
from collections.abc import Sequence

_POOL = 32  # batches that are cut from rows sorted by length: little padding, and still another mix every epoch


def batches(lengths: Sequence[int], *, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Return the row numbers of each step: whole epochs in random order, rows of about one length side by side.

    >>> batches([3, 9, 3, 9], batch_size=2, steps=3, seed=0)
    [[2, 0], [1, 3], [0, 2]]

    All batches are full; the rows that are left over at the end of an epoch, other ones each time, are not seen in it.
    Trainer's own sampler by length draws from torch's global generator, whose state depends on how many numbers the
    method under study drew before: two methods would not see the same rows.  Raises ValueError if there are fewer rows
    than a batch takes.
    """
    if len(lengths) < batch_size:
        msg = f"{len(lengths)} training rows do not fill a batch of {batch_size}; lower batch_size or give more rows"
        raise ValueError(msg)
    generator = random.Random(seed)  # noqa: S311  # no secret
    chosen: list[list[int]] = []
    while len(chosen) < steps:
        epoch = generator.sample(range(len(lengths)), len(lengths) // batch_size * batch_size)
        for start in range(0, len(epoch), _POOL * batch_size):
            pool = sorted(epoch[start : start + _POOL * batch_size], key=lengths.__getitem__)
            cut = [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
            generator.shuffle(cut)
            chosen += cut
    return chosen[:steps]

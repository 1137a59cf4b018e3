"""The rows of a run in the order they are seen: from the seed alone, so that every method sees the same batches."""

from __future__ import annotations

import random
from collections.abc import Callable

_POOL = 32  # batches that are cut from rows sorted by length: little padding, and still another mix every epoch


def batches(rows: int, length: Callable[[int], int], *, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Return the row numbers of each step: whole epochs in random order, rows of about one length side by side.

    >>> batches(4, [3, 9, 3, 9].__getitem__, batch_size=2, steps=3, seed=0)
    [[2, 0], [1, 3], [0, 2]]

    `length` is asked only for rows near those that are returned; of many rows, few need to be encoded for it.

    All batches are full; the rows that are left over at the end of an epoch, other ones each time, are not seen in it.
    Trainer's own sampler by length draws from torch's global generator, whose state depends on how many numbers the
    method under study drew before: two methods would not see the same rows.  Raises ValueError if there are fewer rows
    than a batch takes.
    """
    if rows < batch_size:
        msg = f"{rows} training rows do not fill a batch of {batch_size}; lower batch_size or give more rows"
        raise ValueError(msg)
    generator = random.Random(seed)  # noqa: S311  # no secret
    chosen: list[list[int]] = []
    while len(chosen) < steps:
        epoch = generator.sample(range(rows), rows // batch_size * batch_size)
        for start in range(0, len(epoch), _POOL * batch_size):
            pool = sorted(epoch[start : start + _POOL * batch_size], key=length)
            cut = [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
            generator.shuffle(cut)
            chosen += cut
            if len(chosen) >= steps:
                break
    return chosen[:steps]

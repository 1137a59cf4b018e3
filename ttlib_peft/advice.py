"""What the library says in its log about settings that work, but not as one may think; and how not to hear it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_advice() -> Iterator[None]:
    """Let only errors of `ttlib_peft` through its log: for callers that say the same elsewhere, or want it so.

    >>> with without_advice():
    ...     logging.getLogger("ttlib_peft").isEnabledFor(logging.WARNING)
    False
    """
    log = logging.getLogger("ttlib_peft")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)

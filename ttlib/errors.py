"""The exceptions of ttlib: one root, and each leaf is also the builtin a caller would expect to catch."""

from __future__ import annotations


class TTError(Exception):
    """Root of every error that ttlib raises on purpose."""


class ShapeError(TTError, ValueError):
    """A tensor shape, matrix size or split that cannot be."""


class RankError(TTError, ValueError):
    """A rank, list of ranks or tolerance that cannot be."""


class NonFiniteError(TTError, ValueError):
    """Input that holds NaN or infinity."""


class BackendError(TTError, TypeError):
    """An object that is not an array, or arrays of different libraries, dtypes or devices."""


class UnknownDriverError(TTError, ValueError):
    """The name of a driver that does not exist."""


class TTFileError(TTError, ValueError):
    """A file that is not a whole, valid tensor-train file."""

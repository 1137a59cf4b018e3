"""Whether tensors still hold what they held when something was derived from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Snapshot:
    """What some small one-dimensional tensors held.

    >>> import torch
    >>> flat = torch.ones(3)
    >>> snapshot = Snapshot([flat])
    >>> snapshot.holds([flat])
    True
    >>> flat.data.mul_(2), snapshot.holds([flat])
    (tensor([2., 2., 2.]), False)

    On the CPU it is a copy, compared by value: two microseconds for the few hundred numbers of a train, and never
    wrong, whoever wrote and however.  (A write through `.data` does not count as a version.)  On accelerators, where
    comparing would wait for the device, it is addresses and version counters; there a write through `.data` is unseen.
    """

    __slots__ = ("_packed", "_seen")

    def __init__(self, tensors: Sequence[Tensor], *, packed: Tensor | None = None) -> None:
        """Take *packed* for the copy, where the caller has made one already."""
        self._packed, self._seen = None, None
        if tensors[0].is_cpu:
            self._packed = torch.cat(tuple(tensors)).detach() if packed is None else packed
        else:
            # an alias keeps the address from being given to another tensor
            self._seen = [(tensor.detach(), _version(tensor)) for tensor in tensors]

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Tell whether *tensors* hold the same numbers, of the same dtype on the same device."""
        if self._packed is not None:
            if not tensors[0].is_cpu:
                return False
            now = tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors))
            return now.dtype == self._packed.dtype and torch.equal(now, self._packed)
        return self._seen is not None and _addresses(self._seen) == _addresses([(t, _version(t)) for t in tensors])


def _version(tensor: Tensor) -> int | object:
    return object() if tensor.is_inference() else tensor._version  # made in inference mode: no counter, so no equal


def _addresses(seen: Sequence[tuple[Tensor, int | object]]) -> list[object]:
    return [(t.data_ptr(), t.shape, t.dtype, t.device, version) for t, version in seen]

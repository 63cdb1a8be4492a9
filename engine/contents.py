"""Names for tensors by what is in them, for whoever keeps what was computed from them."""

from collections import OrderedDict

import torch
from torch import Tensor

KEPT = 32


class Contents:
    """`names(tensor)` gives one number for each entry of the batch; equal numbers mean equal entries, bit for bit but for the sign of zero.

    A host makes a fresh tensor on every step, and its own labels for prompts do not cover what other nodes do to them on the way
    (windows over frames, patched conditionings), so only a look inside tells. On a GPU that waits for the device once a call.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self._known: OrderedDict[int, Tensor] = OrderedDict()
        self._next = 0

    def names(self, tensor: Tensor) -> tuple[int, ...]:
        return tuple([self._name(row) for row in tensor.detach()])

    def _name(self, row: Tensor) -> int:
        for name in reversed(self._known):
            known = self._known[name]
            if known.shape == row.shape and known.dtype == row.dtype and known.device == row.device and torch.equal(known, row):
                self._known.move_to_end(name)
                return name
        self._next += 1
        self._known[self._next] = row.clone()
        if len(self._known) > self.kept:
            self._known.popitem(last=False)
        return self._next

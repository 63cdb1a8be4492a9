"""Values made from weights once, instead of on every call."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class PerWeight:
    """`self(weight, *how)` is `make(weight, *how)`, kept as long as the weight lives unchanged and is asked for the same way."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make, self._known = make, WeakTensorKeyDictionary()  # weight -> (its state, the value)

    def __call__(self, weight: Tensor, *how: Hashable) -> Any:
        version = 0 if weight.is_inference() else weight._version
        state = version, weight.data_ptr(), weight.dtype, weight.device, *how
        known = self._known.get(weight)
        if known is None or known[0] != state:
            with torch.inference_mode(False):  # it may be asked for again where gradients flow
                known = self._known[weight] = state, self.make(weight.detach(), *how)
        return known[1]

    def __len__(self) -> int:
        return len(self._known)

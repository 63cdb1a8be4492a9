"""Keys and values of all cross-attention layers, kept from step to step: they depend on the prompt and the weights alone.

A host gives a fresh context tensor on every step, so tensors say nothing about which prompt it is. The caller names it: a name for each
entry of the batch, such as the identity of its conditioning. A batch of several prompts (classifier-free guidance) is kept entry by
entry, so another order, another number of them, or a prompt that comes back finds what is there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdRef

from ..dispatch import InvalidArguments


class CrossKV:
    """projected(layer, context, names, ...) gives keys and values, computed for those entries only that are not yet known.

    What is kept belongs to one version of the weights: `begin` with another version (a LoRA, another strength) forgets all of it.
    A weight that was replaced or written to in place, where torch counts it, is noticed without that.
    limit: bytes kept; the prompts that were not asked for longest go first. Results are views to read, never to write to.
    """

    def __init__(self, limit: int = 256 * 2**20) -> None:
        self.limit = limit
        self.hits = self.misses = 0
        self._version: Hashable = None
        self.clear()

    def clear(self) -> None:
        """Give the memory back."""
        self._kept: OrderedDict[Hashable, tuple[Tensor, Tensor]] = OrderedDict()
        self._batches: dict[Hashable, tuple[tuple, tuple[Tensor, Tensor]]] = {}
        self._bytes = 0

    def begin(self, version: Hashable) -> None:
        """Say which version of the weights is in use from now on."""
        if version != self._version:
            self._version = version
            self.clear()

    @property
    def bytes(self) -> int:
        """Bytes kept, batches put together from several prompts included."""
        return self._bytes + sum(_size(pair) for keys, pair in self._batches.values() if len(keys) > 1)

    def projected(
        self,
        layer: Hashable,
        context: Tensor,
        names: Sequence[Hashable],
        weights: tuple[Tensor, Tensor],
        biases: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> tuple[Tensor, Tensor]:
        """Keys and values [B, M, C] of context [B, M, T]; weights [C, T] and biases [C] of keys and of values.

        names: one for each entry of the batch, equal only where context is. Not for training: gradients are computed the plain way.
        Raises `InvalidArguments` where the number of names is not that of the batch.
        """
        if len(names) != len(context):
            raise InvalidArguments(f"Expected a name for each of {len(context)} entries of the batch, got {len(names)}.")
        learning = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (context, *weights, *biases))
        if learning:
            return F.linear(context, weights[0], biases[0]), F.linear(context, weights[1], biases[1])
        form = (layer, context.shape[1:], context.dtype, context.device, *(state(t) for t in (*weights, *biases)))
        keys = tuple([(form, name) for name in names])
        known, pair = self._batches.get(layer, (None, None))
        if known == keys:
            self.hits += len(keys)
        else:
            with torch.inference_mode(False), torch.no_grad():  # what is kept may be asked for where gradients flow
                rows = self._rows(context, keys, weights, biases)
                pair = rows[0] if len(rows) == 1 else tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
            self._batches[layer] = keys, pair
        for key in keys:
            self._kept.move_to_end(key)
        self._forget_oldest()
        return pair

    def _rows(self, context: Tensor, keys: tuple[Hashable, ...], weights: tuple, biases: tuple) -> list[tuple[Tensor, Tensor]]:
        """[1, M, C] keys and values of each entry; those not known are projected together."""
        new = {key: i for i, key in enumerate(keys) if key not in self._kept}
        self.hits += len(keys) - len(new)
        self.misses += len(new)
        if new:
            fresh = context[list(new.values())]
            projected = zip(*(F.linear(fresh, *both).split(1) for both in zip(weights, biases, strict=True)), strict=True)
            for key, pair in zip(new, projected, strict=True):
                self._kept[key] = tuple(
                    t if len(new) == 1 else t.clone() for t in pair
                )  # a view would keep the whole batch alive
                self._bytes += _size(self._kept[key])
        return [self._kept[key] for key in keys]

    def _forget_oldest(self) -> None:
        while self._bytes > self.limit and self._kept:
            oldest, pair = self._kept.popitem(last=False)
            self._bytes -= _size(pair)
            self._batches = {layer: batch for layer, batch in self._batches.items() if oldest not in batch[0]}


def state(weight: Tensor | None) -> Hashable:
    """What changes when a weight is replaced, moved or, where torch counts it, written to."""
    if weight is None:
        return None
    return WeakIdRef(weight), weight.data_ptr(), weight.dtype, 0 if weight.is_inference() else weight._version


def _size(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

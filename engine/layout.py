"""Convolution weights with their channels last, where they lie."""

import weakref

import torch
from torch import nn


class ChannelsLast:
    """`apply` lays the weights of a network's convolutions out with channels last, `undo` as they were before; no number changes.

    A weight that is replaced in between is left to whoever replaced it. One `apply` costs a copy of each weight that is not yet so.
    """

    def __init__(self) -> None:
        self._laid: list[weakref.ref] = []

    def apply(self, network: nn.Module, device: torch.device) -> None:
        for module in network.modules():
            if not isinstance(module, nn.Conv2d) or module.kernel_size == (1, 1):
                continue
            weight = module.weight
            if type(weight) is nn.Parameter and weight.device == device and weight.is_contiguous():
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
                self._laid.append(weakref.ref(weight))

    def undo(self) -> None:
        for ref in self._laid:
            if (weight := ref()) is not None:
                weight.data = weight.data.contiguous()
        self._laid.clear()

    def __del__(self) -> None:
        self.undo()

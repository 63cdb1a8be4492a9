"""Convolution weights with their channels last, where they lie."""

import weakref

import torch
from torch import Tensor, nn


class ChannelsLast:
    """`apply` lays the weights of a network's convolutions out with channels last, `undo` as they were before; no number changes.

    Both write over the memory that a weight has, so that what knows its address (a CUDA graph) still finds it. A weight that is
    replaced in between is left to whoever replaced it. One `apply` costs a copy of each weight that is not yet so.
    """

    def __init__(self) -> None:
        self._laid: list[weakref.ref] = []

    def apply(self, network: nn.Module, device: torch.device) -> None:
        for module in network.modules():
            if not isinstance(module, nn.Conv2d) or module.kernel_size == (1, 1):
                continue
            weight = module.weight
            if type(weight) is nn.Parameter and weight.device == device and weight.is_contiguous() and _whole(weight):
                _lay(weight, torch.channels_last)
                self._laid.append(weakref.ref(weight))

    def undo(self) -> None:
        for ref in self._laid:
            if (weight := ref()) is not None and weight.is_contiguous(memory_format=torch.channels_last):
                _lay(weight, torch.contiguous_format)
        self._laid.clear()

    def __del__(self) -> None:
        self.undo()


def _whole(weight: Tensor) -> bool:
    """Whether a weight has its memory to itself, as far as can be seen."""
    return weight.untyped_storage().nbytes() == weight.numel() * weight.element_size()


def _lay(weight: nn.Parameter, layout: torch.memory_format) -> None:
    with torch.inference_mode(weight.is_inference()), torch.no_grad():
        turned = weight.detach().clone(memory_format=layout)
        there = torch.as_strided(weight.detach(), turned.shape, turned.stride())
        there.copy_(turned)
        weight.data = there

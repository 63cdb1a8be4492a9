"""Convolutions of a network of ours on arranged weights alone: the plain ones are given up, so that none takes memory twice."""

import weakref

import torch
from torch import Tensor, nn

from ..kernels.arranged import arrange_conv2d, convolved, supported


class _Packed:
    """Stands in for a layer's `_conv_forward`. The weight is arranged on the first call.

    From then on the layer's own weight is a stand-in of its shape that takes no memory and holds NaN, so a stray use shows.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        self.layer = weakref.ref(layer)  # the layer holds this; a circle would keep the memory until it is looked for
        self.weight: Tensor | None = None

    def __call__(self, x: Tensor, _: Tensor, bias: Tensor | None) -> Tensor:
        layer = self.layer()
        stride, padding = layer.stride[0], layer.padding[0]
        if self.weight is None:
            own = layer.weight
            self.weight = arrange_conv2d(own, stride, padding)
            layer.weight = nn.Parameter(own.new_full((), float("nan")).expand(own.shape), requires_grad=False)
        return convolved(x.contiguous(memory_format=torch.channels_last), self.weight, bias, stride, padding)


def pack(layer: nn.Module) -> bool:
    """Let a convolution in bfloat16 compute on an arranged weight, if it is a plain one and torch can; whether it does."""
    if not isinstance(layer, nn.Conv2d) or type(layer)._conv_forward is not nn.Conv2d._conv_forward:
        return False
    if layer.weight.dtype != torch.bfloat16 or layer.weight.device.type != "cpu" or not supported(torch.bfloat16):
        return False
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or {*layer.dilation, layer.groups} != {1}:
        return False
    if len({*layer.stride}) > 1 or len({*layer.padding}) > 1:
        return False
    if layer.kernel_size == (1, 1):
        return False  # nothing to win, and one arranged for a small input is 4 to 45 times slower on a large one
    layer._conv_forward = _Packed(layer)
    return True


def unpack(layer: nn.Module) -> None:
    """Forget the arranged weight, because the layer has been given a new one."""
    if isinstance(packed := layer.__dict__.get("_conv_forward"), _Packed):
        packed.weight = None

"""Convolutions whose weights lie as oneDNN wants them, arranged once instead of on every call."""

import weakref

import torch
from torch import Tensor, nn


class _Packed:
    """Stands in for a layer's `_conv_forward`. The weight is arranged on the first call.

    From then on the layer's own weight is a stand-in of its shape that takes no memory and holds NaN, so a stray use shows.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        self.layer = weakref.ref(layer)  # the layer holds this; a circle would keep the memory until it is looked for
        self.weight: Tensor | None = None

    def __call__(self, x: Tensor, _: Tensor, bias: Tensor | None) -> Tensor:
        layer = self.layer()
        shape = (layer.padding, layer.stride, layer.dilation, layer.groups)
        if self.weight is None:
            own = layer.weight
            self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(own.contiguous().to_mkldnn(), *shape, list(x.shape))
            layer.weight = nn.Parameter(own.new_full((), float("nan")).expand(own.shape), requires_grad=False)
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, bias, *shape, "none", [], "")


def pack(layer: nn.Module) -> bool:
    """Let a convolution in bfloat16 compute on an arranged weight, if it is a plain one and torch can; whether it does."""
    if not isinstance(layer, nn.Conv2d) or type(layer)._conv_forward is not nn.Conv2d._conv_forward or not supported():
        return False
    if layer.weight.dtype != torch.bfloat16 or layer.weight.device.type != "cpu":
        return False
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return False
    if layer.kernel_size == (1, 1):
        return False  # nothing to win, and one arranged for a small input is 4 to 45 times slower on a large one
    layer._conv_forward = _Packed(layer)
    return True


def unpack(layer: nn.Module) -> None:
    """Forget the arranged weight, because the layer has been given a new one."""
    if isinstance(packed := layer.__dict__.get("_conv_forward"), _Packed):
        packed.weight = None


def supported() -> bool:
    """Whether this torch has the operations, which are private, and this processor the instructions."""
    names = ("_convolution_pointwise", "_is_mkldnn_bf16_supported")
    known = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)
    return known and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight") and torch.ops.mkldnn._is_mkldnn_bf16_supported()

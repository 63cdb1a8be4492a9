"""Convolutions and linear layers whose weights lie as oneDNN wants them, arranged once instead of on every call."""

import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn


class _Packed:
    """Stands in for a layer's arithmetic. The weight is arranged on the first call, when the size of the input is known.

    From then on the layer's own weight is a stand-in of its shape that takes no memory and holds NaN, so a stray use shows.
    """

    def __init__(self, layer: nn.Module, arrange: Callable, compute: Callable) -> None:
        self.layer = weakref.ref(layer)  # the layer holds this; a circle would keep the memory until it is looked for
        self.arrange, self.compute = arrange, compute
        self.weight: Tensor | None = None

    def __call__(self, x: Tensor, *_: object) -> Tensor:
        layer = self.layer()
        if self.weight is None:
            own = layer.weight
            self.weight = self.arrange(layer, own.contiguous(), x)
            layer.weight = nn.Parameter(own.new_full((), float("nan")).expand(own.shape), requires_grad=False)
        return self.compute(layer, x, self.weight)


def _arrange_convolution(layer: nn.Conv2d, weight: Tensor, x: Tensor) -> Tensor:
    shape = (layer.padding, layer.stride, layer.dilation, layer.groups)
    return torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), *shape, list(x.shape))


def _convolve(layer: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    shape = (layer.padding, layer.stride, layer.dilation, layer.groups)
    return torch.ops.mkldnn._convolution_pointwise(x, weight, layer.bias, *shape, "none", [], "")


def _arrange_linear(layer: nn.Linear, weight: Tensor, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, x.numel() // x.shape[-1])


def _multiply(layer: nn.Linear, x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, layer.bias, "none", [], "")


def pack(layer: nn.Module) -> bool:
    """Let a layer in bfloat16 compute on an arranged weight, if it is a plain one and torch can; whether it does."""
    weight = getattr(layer, "weight", None)
    if weight is None or weight.dtype != torch.bfloat16 or weight.device.type != "cpu" or not _supported():
        return False
    if isinstance(layer, nn.Conv2d) and type(layer)._conv_forward is nn.Conv2d._conv_forward:
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return False
        layer._conv_forward = _Packed(layer, _arrange_convolution, _convolve)
        return True
    # Hosts derive their own linear layer to cast weights; one of another name computes something else.
    if isinstance(layer, nn.Linear) and type(layer).__name__ == "Linear":
        layer.forward = _Packed(layer, _arrange_linear, _multiply)
        return True
    return False


def unpack(layer: nn.Module) -> None:
    """Forget the arranged weight, because the layer has been given a new one."""
    for name in ("_conv_forward", "forward"):
        if isinstance(packed := layer.__dict__.get(name), _Packed):
            packed.weight = None


def _supported() -> bool:
    """Whether this torch has the operations, which are private, and this processor the instructions."""
    names = ("_convolution_pointwise", "_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    known = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)
    return known and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight") and torch.ops.mkldnn._is_mkldnn_bf16_supported()

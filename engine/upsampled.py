"""Upsampling layers of a network of ours with 4/9 of the products: nearest upsampling by 2 and the convolution after it, in one."""

import weakref

from torch import Tensor, nn

from ..kernels.upsample_conv import upsample_conv


class _Upsampled:
    """Stands in for the forward of such a layer; what does not double the sides of a map is left to the layer's own."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = weakref.ref(layer)  # the layer holds this

    def __call__(self, x: Tensor, output_shape: tuple[int, ...] | None = None) -> Tensor:
        layer = self.layer()
        if x.ndim != 4 or (output_shape is not None and tuple(output_shape[2:]) != (2 * x.shape[2], 2 * x.shape[3])):
            return type(layer).forward(layer, x, *(() if output_shape is None else (output_shape,)))
        return upsample_conv(x, layer.conv.weight, layer.conv.bias)


def upsampled(layer: nn.Module) -> bool:
    """Let an upsampling layer of ComfyUI's form compute so, if it is one with a 3 x 3 convolution; whether it does."""
    conv = getattr(layer, "conv", None)
    if type(layer).__name__ != "Upsample" or not isinstance(conv, nn.Conv2d) or getattr(layer, "scale_factor", 2) != 2:
        return False
    if conv.kernel_size != (3, 3) or conv.padding != (1, 1) or conv.padding_mode != "zeros":
        return False
    if {*conv.stride, *conv.dilation, conv.groups} != {1} or conv.weight.device.type != "cpu":
        return False
    layer.forward = _Upsampled(layer)
    return True

"""Upsampling layers of a network of ours with 4/9 of the products: nearest upsampling by 2 and the convolution after it, in one."""

import weakref

from torch import Tensor, nn

from ..kernels.upsample_conv import four_pixels, in_place
from .packed import pack


class _Upsampled:
    """Stands in for the forward of such a layer; what doubles no side of a map is left to the layer's own."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = weakref.ref(layer)  # the layer holds this
        self.of: tuple = ()

    def __call__(self, x: Tensor, output_shape: tuple[int, ...] | None = None) -> Tensor:
        layer = self.layer()
        if x.ndim != 4 or (output_shape is not None and tuple(output_shape[2:]) != (2 * x.shape[2], 2 * x.shape[3])):
            return type(layer).forward(layer, x, *(() if output_shape is None else (output_shape,)))
        weight, bias = layer.conv.weight, layer.conv.bias
        if not self.of or self.of[0] is not weight or self.of[1] is not bias:
            self.of, self.cells = (weight, bias), _cells(weight, bias)
        return in_place(self.cells(x))


def _cells(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """The convolution that gives the four pixels of each cell."""
    outputs, inputs = weight.shape[:2]
    cells = nn.Conv2d(inputs, 4 * outputs, 2, padding=1, bias=bias is not None, device="meta")
    cells.weight = nn.Parameter(four_pixels(weight), requires_grad=False)
    if bias is not None:
        cells.bias = nn.Parameter(bias.repeat(4), requires_grad=False)
    pack(cells)
    return cells


def upsampled(layer: nn.Module) -> bool:
    """Let an upsampling layer of ComfyUI's form compute so, if it is one with a 3 x 3 convolution; whether it does.

    The weights of its convolution have to be replaced, not written to, when they change.
    """
    conv = getattr(layer, "conv", None)
    if type(layer).__name__ != "Upsample" or not isinstance(conv, nn.Conv2d) or getattr(layer, "scale_factor", 2) != 2:
        return False
    plain = conv.kernel_size == (3, 3) and conv.padding == (1, 1) and conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    if not plain or conv.padding_mode != "zeros" or conv.weight.device.type != "cpu":
        return False
    layer.forward = _Upsampled(layer)
    return True

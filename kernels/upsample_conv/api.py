"""Nearest upsampling by 2, then a 3 x 3 convolution, on CPUs with 4/9 of the products, forward and backward.

Of the nine pixels under the kernel, those that are copies of one cell share it: each of the four output pixels of a cell sees only
2 x 2 different cells, with sums of kernel entries as weights. So one 2 x 2 convolution with 4 O outputs on the small map does it,
and its outputs are put in place; or a transposed 4 x 4 convolution, which is faster forward and slower backward, so it serves where
nothing is learnt and its weight can be arranged. Equal to the reference but for rounding (the sums are taken in float32).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arranged import arrange_doubling, doubling, fits
from ..derived import PerWeight
from .reference import upsample_conv_reference

PIXELS = ((0, 0), (0, 1), (1, 0), (1, 1))  # down and right of a cell's upper left pixel


def upsample_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[B, I, H, W], [O, I, 3, 3] and [O] to [B, O, 2 H, 2 W] in channels_last, zeros around the upsampled map.

    Differentiable in all, also under autocast. On other devices than CPUs this is the reference.
    """
    if x.device.type != "cpu":
        return upsample_conv_reference(x, weight, bias)
    if fits(x, weight, bias):
        return doubling(x, _arranged(weight), bias)
    learning = torch.is_grad_enabled() and weight.requires_grad
    kernel = _four_pixels(weight) if learning else _of_four_pixels(weight)
    return _InPlace.apply(F.conv2d(x, kernel, None if bias is None else bias.repeat(4), padding=1))


class _InPlace(torch.autograd.Function):
    """Four pixels of each cell, [B, 4 O, H + 1, W + 1], to a map [B, O, 2 H, 2 W]; both are read and written in channels_last."""

    @staticmethod
    def _parts(cells: Tensor, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views of cells [B, H + 1, W + 1, 4 O] and pixels [B, H, 2, W, 2, O] that hold the same numbers."""
        height, width, out = pixels.shape[1], pixels.shape[3], pixels.shape[5]
        return [
            (cells[:, down : down + height, right : right + width, i * out : (i + 1) * out], pixels[:, :, down, :, right])
            for i, (down, right) in enumerate(PIXELS)
        ]

    @staticmethod
    def forward(ctx, cells: Tensor) -> Tensor:
        batch, channels, height, width = cells.shape
        pixels = cells.new_empty(batch, height - 1, 2, width - 1, 2, channels // 4)
        for source, target in _InPlace._parts(cells.permute(0, 2, 3, 1), pixels):
            target.copy_(source)
        return pixels.view(batch, 2 * height - 2, 2 * width - 2, -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        batch, out, height, width = grad.shape
        pixels = grad.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width // 2, 2, out)
        cells = grad.new_zeros(batch, height // 2 + 1, width // 2 + 1, 4 * out)
        for target, source in _InPlace._parts(cells, pixels):
            target.copy_(source)
        return cells.permute(0, 3, 1, 2)


def _four_pixels(weight: Tensor) -> Tensor:
    """[4 O, I, 2, 2] for the upper left, upper right, lower left and lower right pixel, in channels_last."""
    rows = _pairs(weight if weight.dtype == torch.float64 else weight.float(), 2)
    pixels = torch.cat([part for row in rows for part in _pairs(row, 3)])
    return pixels.to(weight.dtype, memory_format=torch.channels_last)


def _pairs(kernel: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Three entries along a side as two, for the first and for the second pixel of a cell: (a, b + c) and (a + b, c)."""
    a, b, c = kernel.unbind(side)
    return torch.stack([a, b + c], side), torch.stack([a + b, c], side)


def _transposed(weight: Tensor) -> Tensor:
    """[I, O, 4, 4], to be used with stride 2: the kernel spread over the 2 x 2 pixels that hold the same cell."""
    wide = weight if weight.dtype == torch.float64 else weight.float()
    turned = wide.permute(2, 3, 1, 0).flip(0, 1).contiguous()
    kernel = turned.new_zeros(4, 4, *turned.shape[2:])
    for down, right in PIXELS:
        kernel[down : down + 3, right : right + 3] += turned
    return kernel.permute(2, 3, 0, 1).to(weight.dtype)


_of_four_pixels, _arranged = PerWeight(_four_pixels), PerWeight(lambda weight: arrange_doubling(_transposed(weight)))

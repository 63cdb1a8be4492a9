"""Nearest upsampling by 2, then a 3 x 3 convolution, for inference on CPUs with 4/9 of the products.

Of the nine pixels under the kernel, those that are copies of one cell share it: each of the four output pixels of a cell sees only
2 x 2 different cells, with sums of kernel entries as weights. So one 2 x 2 convolution with 4 O outputs on the small map does it,
and its outputs are put in place. Equal to the reference but for rounding (the sums are taken in float32).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .reference import upsample_conv_reference

_known = WeakTensorKeyDictionary()  # weight -> (its version, dtype and device; weights of the four pixels)


def upsample_conv(x: Tensor, weight: Tensor) -> Tensor:
    """[B, I, H, W] and [O, I, 3, 3] to [B, O, 2 H, 2 W] in channels_last, zeros around the upsampled map.

    With gradients and on other devices than CPUs this is the reference.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return upsample_conv_reference(x, weight)
    batch, _, height, width = x.shape
    out = weight.shape[0]
    cells = F.conv2d(x, _of_four_pixels(weight), padding=1).permute(0, 2, 3, 1)  # [B, H + 1, W + 1, 4 O]
    result = x.new_empty(batch, height, 2, width, 2, out)
    for pixel, (down, right) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        result[:, :, down, :, right] = cells[:, down : down + height, right : right + width, pixel * out : (pixel + 1) * out]
    return result.view(batch, 2 * height, 2 * width, out).permute(0, 3, 1, 2)


def _of_four_pixels(weight: Tensor) -> Tensor:
    """[4 O, I, 2, 2] for the upper left, upper right, lower left and lower right pixel; kept as long as the weight lives unchanged."""
    state = (0 if weight.is_inference() else weight._version, weight.data_ptr(), weight.dtype, weight.device)
    known = _known.get(weight)
    if known is None or known[0] != state:
        rows = _pairs(weight.detach().float(), 2)
        pixels = torch.cat([part for row in rows for part in _pairs(row, 3)]).to(weight.dtype)
        known = _known[weight] = state, pixels.contiguous(memory_format=torch.channels_last)
    return known[1]


def _pairs(kernel: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Three entries along a side as two, for the first and for the second pixel of a cell: (a, b + c) and (a + b, c)."""
    a, b, c = kernel.unbind(side)
    return torch.stack([a, b + c], side), torch.stack([a + b, c], side)

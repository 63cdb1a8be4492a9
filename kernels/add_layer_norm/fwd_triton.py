"""Residual and layer norm in Triton: one row a program, read once, all in registers."""

import triton
import triton.language as tl

from ..launch import by_triton
from .plan import prepare


@triton.jit
def add_layer_norm(x, residual, weight, bias, total, normed, channels, eps, PADDED: tl.constexpr):
    """The norm is that of the sum before it is rounded."""
    start = tl.program_id(0).to(tl.int64) * channels
    c = tl.arange(0, PADDED)
    ok = c < channels
    value = tl.load(x + start + c, mask=ok, other=0.0).to(tl.float32)
    value += tl.load(residual + start + c, mask=ok, other=0.0).to(tl.float32)
    tl.store(total + start + c, value.to(total.dtype.element_ty), mask=ok)
    centred = tl.where(ok, value - tl.sum(value, 0) / channels, 0.0)
    gain = tl.load(weight + c, mask=ok, other=0.0).to(tl.float32) / tl.sqrt(tl.sum(centred * centred, 0) / channels + eps)
    y = centred * gain + tl.load(bias + c, mask=ok, other=0.0).to(tl.float32)
    tl.store(normed + start + c, y.to(normed.dtype.element_ty), mask=ok)


KERNELS = {"add_layer_norm": add_layer_norm}
forward = by_triton(prepare, KERNELS)

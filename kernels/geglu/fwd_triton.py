"""GEGLU in Triton: reads values and gates once, writes once."""

import triton
import triton.language as tl

from ..launch import by_triton
from .plan import prepare


@triton.jit
def geglu(x, out, channels, BLOCK: tl.constexpr):
    """out = values gelu(gates); rows of x are [values, gates]."""
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = c < channels
    values = tl.load(x + row * 2 * channels + c, mask=ok, other=0.0).to(tl.float32)
    gates = tl.load(x + row * 2 * channels + channels + c, mask=ok, other=0.0).to(tl.float32)
    y = values * gates * (0.5 + 0.5 * tl.erf(gates * 0.7071067811865476))
    tl.store(out + row * channels + c, y.to(out.dtype.element_ty), mask=ok)


KERNELS = {"geglu": geglu}
forward = by_triton(prepare, KERNELS)

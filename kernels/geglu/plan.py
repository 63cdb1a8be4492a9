"""How GEGLU is cut into blocks for a GPU, and what the kernel cannot take."""

from __future__ import annotations

import torch
from torch import Tensor

from ..launch import GRID_ROWS, INT32, Launch, blocks, unfit
from ..tuning import tuned

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
BLOCK = 1024


def why_not(x: Tensor) -> str | None:
    """Why the kernel cannot take validated arguments, or None."""
    return unfit({"x": x}) or why_not_form(x)


def why_not_form(x: Tensor) -> str | None:
    """What of that does not depend on the device."""
    if x.dtype not in DTYPES:
        return f"its numbers are {x.dtype}, and it takes float16, bfloat16 and float32"
    if not x.is_contiguous():
        return "x is not contiguous"
    if blocks(x.shape[-1] // 2, 256) > GRID_ROWS or x.numel() // x.shape[-1] > INT32:
        return "there are too many rows or channels"
    return None


def prepare(x: Tensor, *, arch: int) -> tuple[Tensor, list[Launch]]:
    """Room for the result [..., C] of x [..., 2 C], and the launch that writes it."""
    channels = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], channels)
    block, warps = tuned("geglu", arch, f"{8 * x.element_size()}", (BLOCK, 4))
    grid = (x.numel() // x.shape[-1], blocks(channels, block), 1)
    return out, [Launch("geglu", grid, (x, out, channels), {"BLOCK": block}, warps)]

"""How group norm and SiLU over channels_last maps are cut into blocks for a GPU.

Small maps: one program a group. Large ones, three launches that read whole rows of channels: mean and squares about it per channel
and chunk of cells; from these a gain and an offset per channel; one multiply-add and SiLU. What is added per channel beforehand (a
convolution's bias, a time embedding) only shifts means, so it costs nothing but a few numbers in the second launch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..launch import GRID_ROWS, Launch, blocks, power_of_two, unfit
from ..tuning import tuned

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
WHOLE = 4096  # elements of a group, padded to powers of two, that one program holds
ROWS, COLUMNS, CHUNKS = 64, 64, 32


def why_not(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    conv_bias: Tensor | None,
    embedding: Tensor | None,
) -> str | None:
    """Why the kernels cannot take validated arguments, or None."""
    tensors = {"x": x, "weight": weight, "bias": bias, "conv_bias": conv_bias, "embedding": embedding}
    return unfit(tensors) or why_not_form(x)


def why_not_form(x: Tensor) -> str | None:
    """What of that does not depend on the device."""
    if x.dtype not in DTYPES:
        return f"its numbers are {x.dtype}, and it takes float16, bfloat16 and float32"
    if not x.is_contiguous(memory_format=torch.channels_last):
        return "x is not channels_last"
    if x.shape[0] > GRID_ROWS:
        return f"there are more than {GRID_ROWS} pictures"
    return None


def prepare(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    conv_bias: Tensor | None,
    embedding: Tensor | None,
    *,
    arch: int,
) -> tuple[Tensor, list[Launch]]:
    """Room for the result of validated arguments, and the launches that write it, in order."""
    out = torch.empty_like(x)  # channels_last as x is
    batch, channels = x.shape[:2]
    cells, width = x.shape[2] * x.shape[3], channels // groups
    weight, bias, conv_bias, embedding = (None if t is None else t.contiguous() for t in (weight, bias, conv_bias, embedding))
    per_picture = 0 if embedding is None or len(embedding) == 1 else channels
    told = (weight, bias, conv_bias, embedding, per_picture, width, channels, cells)
    group = {"GROUP": max(16, power_of_two(width)), "CONV_BIAS": conv_bias is not None, "EMBEDDING": embedding is not None}
    padded = max(64, power_of_two(cells))
    if padded * group["GROUP"] <= WHOLE:
        return out, [Launch("whole", (groups, batch, 1), (x, out, *told, eps), {**group, "CELLS": padded, "SILU": silu}, 8)]
    rows, columns, warps = tuned("group_norm_silu", arch, f"{8 * x.element_size()}", (ROWS, COLUMNS, 4))
    chunk = blocks(blocks(cells, CHUNKS), rows) * rows  # cells of one chunk
    chunks, across = blocks(cells, chunk), blocks(channels, columns)
    means, squares = x.new_empty(2, batch, chunks, channels, dtype=torch.float32)
    gain, offset = x.new_empty(2, batch, channels, dtype=torch.float32)
    tile, sums = {"ROWS": rows, "COLUMNS": columns}, {**group, "CHUNKS": CHUNKS}
    return out, [
        Launch("gather", (chunks, across, batch), (x, means, squares, channels, cells, chunk), tile, warps),
        Launch("fold", (groups, batch, 1), (means, squares, gain, offset, *told, chunk, chunks, eps), sums, 8),
        Launch(
            "apply", (blocks(cells, rows), across, batch), (x, out, gain, offset, channels, cells), {**tile, "SILU": silu}, warps
        ),
    ]

"""How instance norm over channels_last maps, with what follows it, is cut into blocks for a GPU.

Small maps: one program some channels of a picture. Large ones, two launches that read whole rows of channels: mean and squares about it
per channel and chunk of cells; then each program joins these for its channels, and norms, adds and cuts off its cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..launch import GRID_ROWS, Launch, blocks, unfit
from ..tuning import tuned

EPS = 1e-5
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
WHOLE, ACROSS = 512, 16  # cells and channels that one program holds
ROWS, COLUMNS, CHUNKS = 64, 64, 32


def why_not(x: Tensor, scale: Tensor, shift: Tensor, relu: bool, residual: Tensor | None, gain: Tensor | None) -> str | None:
    """Why the kernels cannot take validated arguments, or None."""
    tensors = {"x": x, "scale": scale, "shift": shift, "residual": residual, "gain": gain}
    return unfit(tensors) or why_not_form(x, residual)


def why_not_form(x: Tensor, residual: Tensor | None = None) -> str | None:
    """What of that does not depend on the device."""
    if x.dtype not in DTYPES:
        return f"its numbers are {x.dtype}, and it takes float16, bfloat16 and float32"
    for name, tensor in {"x": x, "residual": residual}.items():
        if tensor is not None and not tensor.is_contiguous(memory_format=torch.channels_last):
            return f"{name} is not channels_last"
    if x.shape[0] > GRID_ROWS:
        return f"there are more than {GRID_ROWS} pictures"
    return None


def prepare(
    x: Tensor, scale: Tensor, shift: Tensor, relu: bool, residual: Tensor | None, gain: Tensor | None, *, arch: int
) -> tuple[Tensor, list[Launch]]:
    """Room for the result of validated arguments, and the launches that write it, in order."""
    out = torch.empty_like(x)  # channels_last as x is
    batch, channels = x.shape[:2]
    cells = x.shape[2] * x.shape[3]
    scale, shift, gain = (None if t is None else t.contiguous() for t in (scale, shift, gain))
    scale_step, gain_step = (0 if t is None or len(t) == 1 else channels for t in (scale, gain))  # from picture to picture
    told = (x, out, scale, shift, residual, gain, scale_step, gain_step, channels, cells)
    form = {"RELU": relu, "RESIDUAL": residual is not None, "GAIN": gain is not None}
    if cells <= WHOLE:
        tile = {"CELLS": WHOLE, "COLUMNS": ACROSS}
        return out, [Launch("whole", (blocks(channels, ACROSS), batch, 1), (*told, EPS), {**form, **tile}, 8)]
    rows, columns, warps = tuned("instance_norm_act", arch, f"{8 * x.element_size()}", (ROWS, COLUMNS, 4))
    chunk = blocks(blocks(cells, CHUNKS), rows) * rows  # cells of one chunk
    chunks, across = blocks(cells, chunk), blocks(channels, columns)
    means, squares = x.new_empty(2, batch, chunks, channels, dtype=torch.float32)
    tile = {"ROWS": rows, "COLUMNS": columns}
    return out, [
        Launch("gather", (chunks, across, batch), (x, means, squares, channels, cells, chunk), tile, warps),
        Launch(
            "apply",
            (blocks(cells, rows), across, batch),
            (*told, means, squares, chunk, chunks, EPS),
            {**form, **tile, "CHUNKS": CHUNKS},
            warps,
        ),
    ]

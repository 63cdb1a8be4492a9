"""Instance norm over channels_last maps, a sum and ReLU in Triton; all arithmetic in float32.

Spread is summed about the mean of its own tile and tiles are joined (Chan et al. 1979), so a mean far from zero does no harm.
"""

import triton
import triton.language as tl

from ..launch import by_triton
from .plan import prepare


@triton.jit
def _finish(
    centred, own_gain, own_shift, out, residual, gain, b, gain_step, c, c_ok, at, ok,
    RELU: tl.constexpr, RESIDUAL: tl.constexpr, GAIN: tl.constexpr,
):  # fmt: skip
    """From what lies about the mean to the stored result."""
    y = centred * own_gain[None, :] + own_shift[None, :]
    if RESIDUAL:
        more = tl.load(residual + at, mask=ok, other=0.0).to(tl.float32)
        if GAIN:
            more = more * tl.load(gain + b * gain_step + c, mask=c_ok, other=0.0).to(tl.float32)[None, :]
        y += more
    if RELU:
        y = tl.maximum(y, 0.0)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=ok)


@triton.jit
def whole(
    x, out, scale, shift, residual, gain, scale_step, gain_step, channels, cells, eps,
    CELLS: tl.constexpr, COLUMNS: tl.constexpr, RELU: tl.constexpr, RESIDUAL: tl.constexpr, GAIN: tl.constexpr,
):  # fmt: skip
    """One program COLUMNS channels of a picture, all their cells in registers."""
    b = tl.program_id(1)
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    c_ok = c < channels
    r = tl.arange(0, CELLS)
    ok = (r[:, None] < cells) & c_ok[None, :]
    at = b.to(tl.int64) * cells * channels + r[:, None] * channels + c[None, :]
    values = tl.load(x + at, mask=ok, other=0.0).to(tl.float32)
    mean = tl.sum(values, 0) / cells
    centred = tl.where(ok, values - mean[None, :], 0.0)
    centred = tl.where(ok, centred - (tl.sum(centred, 0) / cells)[None, :], 0.0)  # what rounding the mean left
    spread = tl.sum(centred * centred, 0) / cells
    own_gain = tl.load(scale + b * scale_step + c, mask=c_ok, other=0.0).to(tl.float32) / tl.sqrt(spread + eps)
    own_shift = tl.load(shift + b * scale_step + c, mask=c_ok, other=0.0).to(tl.float32)
    _finish(centred, own_gain, own_shift, out, residual, gain, b, gain_step, c, c_ok, at, ok, RELU, RESIDUAL, GAIN)


@triton.jit
def gather(x, means, squares, channels, cells, chunk, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Pass 1: mean of each channel over a chunk of cells, and squares about it."""
    b = tl.program_id(2)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    c_ok = c < channels
    start = tl.program_id(0) * chunk
    end = tl.minimum(start + chunk, cells)
    rows = x + b.to(tl.int64) * cells * channels
    count = 0.0
    mean = tl.zeros([COLUMNS], tl.float32)
    square = tl.zeros([COLUMNS], tl.float32)
    for first in tl.range(start, end, ROWS):
        r = first + tl.arange(0, ROWS)
        ok = (r[:, None] < end) & c_ok[None, :]
        values = tl.load(rows + r[:, None] * channels + c[None, :], mask=ok, other=0.0).to(tl.float32)
        more = tl.minimum(end - first, ROWS).to(tl.float32)
        own_mean = tl.sum(values, 0) / more
        centred = tl.where(ok, values - own_mean[None, :], 0.0)
        step = own_mean - mean
        square += tl.sum(centred * centred, 0) + step * step * (count * more / (count + more))
        mean += step * (more / (count + more))
        count += more
    at = (b * tl.num_programs(0) + tl.program_id(0)) * channels + c
    tl.store(means + at, mean, mask=c_ok)
    tl.store(squares + at, square, mask=c_ok)


@triton.jit
def apply(
    x, out, scale, shift, residual, gain, scale_step, gain_step, channels, cells, means, squares, chunk, chunks, eps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNKS: tl.constexpr,
    RELU: tl.constexpr, RESIDUAL: tl.constexpr, GAIN: tl.constexpr,
):  # fmt: skip
    """Pass 2: the chunks joined, and the result for ROWS cells."""
    b = tl.program_id(2)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    c_ok = c < channels
    i = tl.arange(0, CHUNKS)
    chunk_ok = (i[:, None] < chunks) & c_ok[None, :]
    place = (b * chunks + i[:, None]) * channels + c[None, :]
    counts = tl.maximum(tl.minimum(chunk, cells - i * chunk), 0).to(tl.float32)[:, None]
    own = tl.load(means + place, mask=chunk_ok, other=0.0)
    near = tl.load(x + b.to(tl.int64) * cells * channels + c, mask=c_ok, other=0.0).to(tl.float32)  # sums about it lose less
    mean = near + tl.sum(tl.where(chunk_ok, own - near[None, :], 0.0) * counts, 0) / cells
    off = own - mean[None, :]
    spread = tl.sum(tl.load(squares + place, mask=chunk_ok, other=0.0) + off * off * counts, 0) / cells
    own_gain = tl.load(scale + b * scale_step + c, mask=c_ok, other=0.0).to(tl.float32) / tl.sqrt(spread + eps)
    own_shift = tl.load(shift + b * scale_step + c, mask=c_ok, other=0.0).to(tl.float32)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (r[:, None] < cells) & c_ok[None, :]
    at = b.to(tl.int64) * cells * channels + r[:, None] * channels + c[None, :]
    centred = tl.load(x + at, mask=ok, other=0.0).to(tl.float32) - mean[None, :]
    _finish(centred, own_gain, own_shift, out, residual, gain, b, gain_step, c, c_ok, at, ok, RELU, RESIDUAL, GAIN)


KERNELS = {"whole": whole, "gather": gather, "apply": apply}
forward = by_triton(prepare, KERNELS)

"""Group norm and SiLU over channels_last maps in Triton; all arithmetic in float32.

Spread is summed about the mean of its own tile and tiles are joined (Chan et al. 1979), so a mean far from zero does no harm.
"""

import triton
import triton.language as tl

from ..launch import by_triton
from .plan import prepare


@triton.jit
def _added(conv_bias, embedding, b, per_picture, c, c_ok, PADDED: tl.constexpr, CONV_BIAS: tl.constexpr, EMBEDDING: tl.constexpr):
    """What is added to each channel before the norm."""
    total = tl.zeros([PADDED], tl.float32)
    if CONV_BIAS:
        total += tl.load(conv_bias + c, mask=c_ok, other=0.0).to(tl.float32)
    if EMBEDDING:
        total += tl.load(embedding + b * per_picture + c, mask=c_ok, other=0.0).to(tl.float32)
    return total


@triton.jit
def whole(
    x, out, weight, bias, conv_bias, embedding, per_picture, width, channels, cells, eps,
    GROUP: tl.constexpr, CONV_BIAS: tl.constexpr, EMBEDDING: tl.constexpr, CELLS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """One program a group and picture, all of it in registers; `width` channels a group, padded to GROUP."""
    b = tl.program_id(1)
    place = tl.arange(0, GROUP)
    c_ok = place < width
    c = tl.program_id(0) * width + place
    r = tl.arange(0, CELLS)
    ok = (r[:, None] < cells) & c_ok[None, :]
    at = b.to(tl.int64) * cells * channels + r[:, None] * channels + c[None, :]
    values = tl.load(x + at, mask=ok, other=0.0).to(tl.float32)
    added = _added(conv_bias, embedding, b, per_picture, c, c_ok, GROUP, CONV_BIAS, EMBEDDING)
    values = tl.where(ok, values + added[None, :], 0.0)
    count = cells * width
    mean = tl.sum(tl.sum(values, 1), 0) / count
    centred = tl.where(ok, values - mean, 0.0)
    spread = tl.sum(tl.sum(centred * centred, 1), 0) / count
    gain = tl.load(weight + c, mask=c_ok, other=0.0).to(tl.float32) / tl.sqrt(spread + eps)
    y = centred * gain[None, :] + tl.load(bias + c, mask=c_ok, other=0.0).to(tl.float32)[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=ok)


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
def fold(
    means, squares, gain, offset, weight, bias, conv_bias, embedding, per_picture, width, channels, cells, chunk, chunks, eps,
    GROUP: tl.constexpr, CONV_BIAS: tl.constexpr, EMBEDDING: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """Pass 2: gain and offset of the channels of a group, such that norm(x + added) = gain x + offset."""
    b = tl.program_id(1)
    place = tl.arange(0, GROUP)
    c_ok = place < width
    c = tl.program_id(0) * width + place
    i = tl.arange(0, CHUNKS)
    ok = (i[:, None] < chunks) & c_ok[None, :]
    at = (b * chunks + i[:, None]) * channels + c[None, :]
    added = _added(conv_bias, embedding, b, per_picture, c, c_ok, GROUP, CONV_BIAS, EMBEDDING)
    counts = tl.maximum(tl.minimum(chunk, cells - i * chunk), 0).to(tl.float32)[:, None]
    own = tl.where(ok, tl.load(means + at, mask=ok, other=0.0) + added[None, :], 0.0)
    count = cells * width
    mean = tl.sum(tl.sum(own * counts, 1), 0) / count
    centred = tl.where(ok, own - mean, 0.0)
    spread = tl.sum(tl.sum(tl.load(squares + at, mask=ok, other=0.0) + centred * centred * counts, 1), 0) / count
    own_gain = tl.load(weight + c, mask=c_ok, other=0.0).to(tl.float32) / tl.sqrt(spread + eps)
    own_offset = tl.load(bias + c, mask=c_ok, other=0.0).to(tl.float32) + (added - mean) * own_gain
    tl.store(gain + b * channels + c, own_gain, mask=c_ok)
    tl.store(offset + b * channels + c, own_offset, mask=c_ok)


@triton.jit
def apply(x, out, gain, offset, channels, cells, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SILU: tl.constexpr):
    """Pass 3: gain x + offset, and SiLU."""
    b = tl.program_id(2)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    c_ok = c < channels
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (r[:, None] < cells) & c_ok[None, :]
    at = b.to(tl.int64) * cells * channels + r[:, None] * channels + c[None, :]
    values = tl.load(x + at, mask=ok, other=0.0).to(tl.float32)
    own_gain = tl.load(gain + b * channels + c, mask=c_ok, other=0.0)
    own_offset = tl.load(offset + b * channels + c, mask=c_ok, other=0.0)
    y = values * own_gain[None, :] + own_offset[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=ok)


KERNELS = {"whole": whole, "gather": gather, "fold": fold, "apply": apply}
forward = by_triton(prepare, KERNELS)

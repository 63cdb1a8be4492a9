"""Attention forward in Triton: one pass over the keys with a running softmax, and all keys at once where they are few.

Names: [R, D] is a block of queries or outputs, [M, D] of keys or values, [R, M] of logits. Both kernels take the same arguments.
A head's channels are D0 + D1 with D1 masked down to WIDTH - D0 (or 0: not split), each a power of two with products of its own.
Logits are kept in units of log 2, so that exp2 can be used.
"""

import triton
import triton.language as tl

from ..launch import by_triton
from .plan import prepare


@triton.jit
def _start(pointer, b, h, batch_stride, head_stride, RUN: tl.constexpr):
    """First element of a head. Without the promise on the computed offset, 40 channels a head mean loads of 2 bytes each."""
    return pointer + tl.multiple_of(b.to(tl.int64) * batch_stride + h * head_stride, RUN)


@triton.jit
def _load(rows, columns, row_ok, D: tl.constexpr, FROM: tl.constexpr, WIDTH: tl.constexpr):
    """A tile of row pointers by channels FROM.. FROM + D, zero beyond WIDTH and in rows that are not there."""
    if FROM + D > WIDTH:
        return tl.load(rows + columns, mask=row_ok & (columns < WIDTH), other=0.0)
    else:
        return tl.load(rows + columns, mask=row_ok, other=0.0)


@triton.jit
def _dot(a, b, c):
    """a b + c; float32 is multiplied as such and not as tf32."""
    return tl.dot(a, b, c, input_precision="ieee")


@triton.jit
def flash(
    q, k, v, out, mask,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head, out_batch, out_row, out_head, mask_batch,
    heads, rows, keys, scale,
    D0: tl.constexpr, D1: tl.constexpr, WIDTH: tl.constexpr, SHARED: tl.constexpr, RUN: tl.constexpr, MASKED: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d0 = tl.arange(0, D0)
    row_ok = r[:, None] < rows
    q_rows = _start(q, b, h, q_batch, q_head, RUN) + r[:, None] * q_row
    q0 = _load(q_rows, d0[None, :], row_ok, D0, 0, WIDTH)
    out0 = tl.zeros([ROWS, D0], tl.float32)
    if D1 > 0:
        d1 = D0 + tl.arange(0, D1)
        q1 = _load(q_rows, d1[None, :], row_ok, D1, D0, WIDTH)
        out1 = tl.zeros([ROWS, D1], tl.float32)
    top = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    k_start = _start(k, b, h // SHARED, k_batch, k_head, RUN)
    v_start = _start(v, b, h // SHARED, v_batch, v_head, RUN)

    for first in tl.range(0, keys, KEYS):
        m = first + tl.arange(0, KEYS)
        key_ok = m < keys
        k_columns = k_start + m[None, :] * k_row
        logits = _dot(q0, _load(k_columns, d0[:, None], key_ok[None, :], D0, 0, WIDTH), tl.zeros([ROWS, KEYS], tl.float32))
        if D1 > 0:
            logits = _dot(q1, _load(k_columns, d1[:, None], key_ok[None, :], D1, D0, WIDTH), logits)
        logits = logits * scale
        if MASKED:
            logits += tl.load(mask + b * mask_batch + m, mask=key_ok, other=0.0)[None, :] * 1.4426950408889634
        logits = tl.where(key_ok[None, :], logits, -float("inf"))
        new_top = tl.maximum(top, tl.max(logits, 1))
        # A row whose keys have all been forbidden so far would give inf - inf.
        anchor = tl.where(new_top == -float("inf"), 0.0, new_top) if MASKED else new_top
        shares = tl.exp2(logits - anchor[:, None])
        fade = tl.exp2(top - anchor)
        total = total * fade + tl.sum(shares, 1)
        v_rows = v_start + m[:, None] * v_row
        v0 = _load(v_rows, d0[None, :], key_ok[:, None], D0, 0, WIDTH)
        out0 = _dot(shares.to(v0.dtype), v0, out0 * fade[:, None])
        if D1 > 0:
            v1 = _load(v_rows, d1[None, :], key_ok[:, None], D1, D0, WIDTH)
            out1 = _dot(shares.to(v1.dtype), v1, out1 * fade[:, None])
        top = new_top

    if MASKED:
        total = tl.where(total == 0.0, 1.0, total)
    out_rows = _start(out, b, h, out_batch, out_head, RUN) + r[:, None] * out_row
    tl.store(out_rows + d0[None, :], (out0 / total[:, None]).to(out.dtype.element_ty), mask=row_ok & (d0[None, :] < WIDTH))
    if D1 > 0:
        tl.store(out_rows + d1[None, :], (out1 / total[:, None]).to(out.dtype.element_ty), mask=row_ok & (d1[None, :] < WIDTH))


@triton.jit
def short(
    q, k, v, out, mask,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head, out_batch, out_row, out_head, mask_batch,
    heads, rows, keys, scale,
    D0: tl.constexpr, D1: tl.constexpr, WIDTH: tl.constexpr, SHARED: tl.constexpr, RUN: tl.constexpr, MASKED: tl.constexpr,
    ROWS: tl.constexpr, KEYS0: tl.constexpr, KEYS1: tl.constexpr,
):  # fmt: skip
    """KEYS0 < keys <= KEYS0 + KEYS1: no loop and no running softmax."""
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d0 = tl.arange(0, D0)
    row_ok = r[:, None] < rows
    m0 = tl.arange(0, KEYS0)
    m1 = KEYS0 + tl.arange(0, KEYS1)
    there = m0 >= 0  # all of the first keys
    key_ok = m1 < keys
    q_rows = _start(q, b, h, q_batch, q_head, RUN) + r[:, None] * q_row
    k_start = _start(k, b, h // SHARED, k_batch, k_head, RUN)
    v_start = _start(v, b, h // SHARED, v_batch, v_head, RUN)
    k0, k1 = k_start + m0[None, :] * k_row, k_start + m1[None, :] * k_row
    v0, v1 = v_start + m0[:, None] * v_row, v_start + m1[:, None] * v_row

    q0 = _load(q_rows, d0[None, :], row_ok, D0, 0, WIDTH)
    a = _dot(q0, _load(k0, d0[:, None], there[None, :], D0, 0, WIDTH), tl.zeros([ROWS, KEYS0], tl.float32))
    c = _dot(q0, _load(k1, d0[:, None], key_ok[None, :], D0, 0, WIDTH), tl.zeros([ROWS, KEYS1], tl.float32))
    if D1 > 0:
        d1 = D0 + tl.arange(0, D1)
        q1 = _load(q_rows, d1[None, :], row_ok, D1, D0, WIDTH)
        a = _dot(q1, _load(k0, d1[:, None], there[None, :], D1, D0, WIDTH), a)
        c = _dot(q1, _load(k1, d1[:, None], key_ok[None, :], D1, D0, WIDTH), c)
    a, c = a * scale, c * scale
    if MASKED:
        a += tl.load(mask + b * mask_batch + m0)[None, :] * 1.4426950408889634
        c += tl.load(mask + b * mask_batch + m1, mask=key_ok, other=0.0)[None, :] * 1.4426950408889634
    c = tl.where(key_ok[None, :], c, -float("inf"))
    top = tl.maximum(tl.max(a, 1), tl.max(c, 1))
    anchor = tl.where(top == -float("inf"), 0.0, top) if MASKED else top
    a, c = tl.exp2(a - anchor[:, None]), tl.exp2(c - anchor[:, None])
    total = tl.sum(a, 1) + tl.sum(c, 1)
    if MASKED:
        total = tl.where(total == 0.0, 1.0, total)
    a, c = a.to(q.dtype.element_ty), c.to(q.dtype.element_ty)

    out_rows = _start(out, b, h, out_batch, out_head, RUN) + r[:, None] * out_row
    result = _dot(a, _load(v0, d0[None, :], there[:, None], D0, 0, WIDTH), tl.zeros([ROWS, D0], tl.float32))
    result = _dot(c, _load(v1, d0[None, :], key_ok[:, None], D0, 0, WIDTH), result)
    tl.store(out_rows + d0[None, :], (result / total[:, None]).to(out.dtype.element_ty), mask=row_ok & (d0[None, :] < WIDTH))
    if D1 > 0:
        rest = _dot(a, _load(v0, d1[None, :], there[:, None], D1, D0, WIDTH), tl.zeros([ROWS, D1], tl.float32))
        rest = _dot(c, _load(v1, d1[None, :], key_ok[:, None], D1, D0, WIDTH), rest)
        tl.store(out_rows + d1[None, :], (rest / total[:, None]).to(out.dtype.element_ty), mask=row_ok & (d1[None, :] < WIDTH))


KERNELS = {"flash": flash, "short": short}
forward = by_triton(prepare, KERNELS)

"""How attention is cut into blocks for a GPU: tiles by head size and number of keys, and what the kernels cannot take.

Head sizes and short key counts are split into powers of two instead of padded: 40 = 32 + 8 (in 16), 80 = 64 + 16,
160 = 128 + 32, 77 keys = 64 + 13 (in 16). Fewer products, and 160 fits the shared memory of every supported GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..launch import GRID_ROWS, Launch, blocks, unfit
from ..tuning import tuned

SPLIT = {40: (32, 16), 64: (64, 0), 80: (64, 16), 128: (128, 0), 160: (128, 32)}
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LOG2_E = 1.4426950408889634
# (rows of queries, keys at a time, warps, stages), chosen by compiling for each architecture: no spills, shared memory under 99 KiB
TILES = {40: (128, 64, 4, 3), 64: (128, 64, 4, 3), 80: (128, 64, 8, 2), 128: (128, 64, 8, 2), 160: (64, 64, 4, 2)}
WIDE_TILES = {40: (32, 32, 4, 1), 64: (32, 32, 4, 1), 80: (32, 32, 4, 1), 128: (32, 32, 8, 1), 160: (16, 32, 4, 1)}  # float32
# All keys at once, (rows of queries, warps): up to 80 keys, as for one prompt of 77 tokens, and up to 160 for two.
SHORT_TILES = {
    (64, 16): {40: (128, 4), 64: (64, 4), 80: (64, 4), 128: (64, 8), 160: (64, 8)},
    (128, 32): {40: (64, 4), 64: (64, 4), 80: (64, 4)},
}


def why_not(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None, scale: float | None) -> str | None:
    """Why the kernels cannot take validated arguments, or None."""
    return unfit({"q": q, "k": k, "v": v, "mask": mask}) or why_not_form(q, k, v, heads, mask)


def why_not_form(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None) -> str | None:
    """What of that does not depend on the device."""
    width = _width(q, heads)
    if width not in SPLIT:
        return f"its heads have {width} channels, and it takes {', '.join(map(str, SPLIT))}"
    if q.dtype not in DTYPES:
        return f"its numbers are {q.dtype}, and it takes float16, bfloat16 and float32"
    if mask is not None and mask.ndim == 4 and mask.shape[1:3] != (1, 1):
        return "its mask is not the same for all heads and queries"
    if q.shape[0] * heads > GRID_ROWS:
        return f"pictures times heads are {q.shape[0] * heads}, over {GRID_ROWS}"
    run = 16 // q.element_size()
    for name, tensor in {"q": q, "k": k, "v": v}.items():
        if tensor.stride(-1) != 1:
            return f"the channels of {name} are not next to each other in memory"
        if tensor.data_ptr() % 16 or any(stride % run for stride in tensor.stride()[:-1]):
            return f"{name} does not start each row on a multiple of 16 bytes"
    return None


def prepare(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None, scale: float | None, *, arch: int
) -> tuple[Tensor, list[Launch]]:
    """Room for the result [B, N, H*D] of validated arguments, and the launch that writes it."""
    out = q.new_empty(*q.shape[:2], q.shape[-1] * (1 if q.ndim == 3 else heads))
    width, batch, rows, keys = _width(q, heads), q.shape[0], q.shape[1], k.shape[1]
    shared = heads // (k.shape[2] // width if k.ndim == 3 else k.shape[2])  # query heads to one key head
    strides = [t.stride()[:2] + ((width,) if t.ndim == 3 else (t.stride(2),)) for t in (q, k, v, out)]
    added = None if mask is None else additive(mask)
    logit_scale = (width**-0.5 if scale is None else scale) * LOG2_E
    arguments = (
        q,
        k,
        v,
        out,
        added,
        *sum(strides, ()),
        0 if added is None or len(added) == 1 else added.stride(0),
        heads,
        rows,
        keys,
        logit_scale,
    )
    constants = {"D0": SPLIT[width][0], "D1": SPLIT[width][1], "WIDTH": width, "SHARED": shared, "RUN": 16 // q.element_size()}
    constants["MASKED"] = added is not None
    short = next((both for both in SHORT_TILES if sum(both) >= keys > both[0]), None)
    if short and width in SHORT_TILES[short] and q.element_size() == 2:
        row_block, warps = tuned("attention_short", arch, f"{width}x{sum(short)}", SHORT_TILES[short][width])
        constants |= {"ROWS": row_block, "KEYS0": short[0], "KEYS1": short[1]}
        return out, [Launch("short", (blocks(rows, row_block), batch * heads, 1), arguments, constants, warps, 1)]
    tiles = TILES if q.element_size() == 2 else WIDE_TILES
    bucket = f"{width}x{'long' if keys > 512 else 'few'}x{8 * q.element_size()}"
    row_block, key_block, warps, stages = tuned("attention", arch, bucket, tiles[width])
    constants |= {"ROWS": row_block, "KEYS": key_block}
    return out, [Launch("flash", (blocks(rows, row_block), batch * heads, 1), arguments, constants, warps, stages)]


def additive(mask: Tensor) -> Tensor:
    """A key mask [B, M] or [B, 1, 1, M], allowed keys or logits to add, as float32 to add; -inf forbids, any finite number only weighs."""
    mask = mask.reshape(mask.shape[0], -1)
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_fill_(~mask, -torch.inf)
    mask = mask.float().contiguous()
    # The kernels work with powers of two, where the lowest float32 would turn infinite.
    return torch.where(mask.isneginf(), mask, mask.clamp(-2e38, 2e38))


def _width(q: Tensor, heads: int) -> int:
    return q.shape[-1] // heads if q.ndim == 3 else q.shape[-1]

"""Ways of attention: torch's own kernel, our fused ones on a GPU, and one by blocks of rows for processors without a matrix unit."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..kernels.attention import attention

# Bytes of logits alive at once: they stay in the second-level caches, and each product is still long enough to be fast.
BLOCK = 8 * 2**20


def whole(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None, gqa: bool = False) -> Tensor:
    """torch's scaled dot product attention; q [B, H, N, D], k and v [B, K, M, D], K < H heads only with `gqa`."""
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=gqa)


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None, gqa: bool = False) -> Tensor:
    """The same by whichever way of our own kernels is fastest for the shape; they read and write [B, N, H, D]."""
    out = attention(*(t.transpose(1, 2) for t in (q, k, v)), q.shape[1], mask=mask, scale=scale)
    return out.unflatten(-1, (q.shape[1], -1)).transpose(1, 2)


def blocked(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, block: int = BLOCK) -> Tensor:
    """Attention without mask by two products and a softmax over blocks of rows; q [B, H, N, D], k and v [B, H, M, D].

    Logits are rounded to the dtype of q. torch's kernel for 16 bits is written for a matrix unit: without one its products
    run far below what the same processor reaches in ordinary matrix products, which this uses.
    """
    batch, heads, rows, width = q.shape
    keys = k.shape[2]
    q = (q * (width**-0.5 if scale is None else scale)).reshape(-1, rows, width)
    # Arranged once here: a product of parts that are not contiguous copies them again for every block.
    k_t, v = k.reshape(-1, keys, width).mT.contiguous(), v.reshape(-1, keys, v.shape[-1]).contiguous()
    out = q.new_empty(batch * heads, rows, v.shape[-1])
    room = max(16, block // (keys * q.element_size()))  # rows of logits in one block
    together, step = max(1, room // rows), min(room, rows)
    logits = q.new_empty(min(together, batch * heads), step, keys)
    shares = torch.empty_like(logits)
    for head in range(0, batch * heads, together):
        own = slice(head, min(head + together, batch * heads))
        for row in range(0, rows, step):
            part = q[own, row : row + step]
            a, b = (buffer[: part.shape[0], : part.shape[1]] for buffer in (logits, shares))
            torch.bmm(part, k_t[own], out=a)
            torch.softmax(a, -1, out=b)
            torch.bmm(b, v[own], out=out[own, row : row + step])
    return out.view(batch, heads, rows, -1)


def spatial(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention among the pixels of q, k, v [B, C, H, W] with one head, as in a VAE."""
    tokens = [t.flatten(2).transpose(1, 2).unsqueeze(1) for t in (q, k, v)]
    attend = blocked if q.element_size() == 2 and q.device.type == "cpu" else whole
    return attend(*tokens).squeeze(1).transpose(1, 2).reshape(q.shape)

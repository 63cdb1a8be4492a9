"""Attention as it is written down (Vaswani et al. 2017, arXiv 1706.03762, equation 1), for any dtype, float64 too."""

import torch
from torch import Tensor


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Shapes as in `api.attention`. A query to which every key is forbidden gives zeros."""
    width = q.shape[-1] // heads if q.ndim == 3 else q.shape[-1]
    q, k, v = (t.unflatten(-1, (-1, width)) if t.ndim == 3 else t for t in (q, k, v))  # [B, N, H, D]
    k, v = (t.repeat_interleave(heads // t.shape[2], 2) for t in (k, v))
    logits = torch.einsum("bnhd,bmhd->bhnm", q, k) * (width**-0.5 if scale is None else scale)
    if mask is not None:
        added = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask
        logits = logits + (added[:, None, None, :] if added.ndim == 2 else added).to(q.dtype)
    shares = torch.softmax(logits, -1).nan_to_num(0.0) if mask is not None else torch.softmax(logits, -1)
    return torch.einsum("bhnm,bmhd->bnhd", shares, v).flatten(2)

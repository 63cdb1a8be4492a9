"""Attention that reads and writes [B, N, H*D] as it comes, at the head sizes of diffusion networks.

Ways: `triton`, `ptx` (the same kernels compiled beforehand, for machines without Triton) and `torch` (scaled_dot_product_attention,
on any device). The fused ways take float16, bfloat16 and float32, head sizes 40, 64, 80, 128 and 160, any number of queries and
keys, and no gradients. Softmax and sums are in float32. Source: flash attention (Dao 2023, arXiv 2307.08691).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import InvalidArguments, Operation, Way
from ..library import define
from ..ptx import ptx
from .plan import prepare, why_not


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    scale: float | None = None,
    way: str = "auto",
) -> Tensor:
    """softmax(scale q k^T + mask) v for each head, [B, N, H*D].

    q: [B, N, H*D], or [B, N, H, D] with any strides. k, v: [B, M, K*D] or [B, M, K, D] with K heads that divide H. All of one dtype.
    mask: over keys [B or 1, M], or in four dimensions, broadcastable to [B, H, N, M]; bool (True: this key takes part) or floating
    (added to the logits). The fused ways take masks over keys alone. A query without keys gets zeros.
    scale: D ** -0.5 if None. way: 'auto', 'triton', 'ptx' or 'torch'; a way that is asked for runs or raises `Declined`.
    Raises `InvalidArguments` where shapes or dtypes do not fit each other.
    """
    if torch.compiler.is_compiling():
        check(q, k, v, heads, mask, scale)
        learning = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
        return by_torch(q, k, v, heads, mask, scale) if learning else OPERATOR(q, k, v, heads, mask, scale)
    return ATTENTION(q, k, v, heads, mask, scale, way=way)


def check(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None, scale: float | None) -> None:
    """Raise `InvalidArguments` where these do not fit each other."""
    if q.ndim not in (3, 4) or k.ndim != q.ndim or v.shape != k.shape or k.shape[0] != q.shape[0]:
        raise InvalidArguments(
            "Expected q [B, N, H*D] with k and v [B, M, K*D], or all with the heads as a dimension, "
            f"got {list(q.shape)}, {list(k.shape)} and {list(v.shape)}; give the three the same layout and batch."
        )
    if heads < 1 or (q.shape[-1] % heads if q.ndim == 3 else q.shape[2] != heads):
        raise InvalidArguments(
            f"Expected q to hold {heads} heads, got {list(q.shape)}; give the number of heads it was made with."
        )
    width = q.shape[-1] // heads if q.ndim == 3 else q.shape[-1]
    own = k.shape[2] // width if k.ndim == 3 and width else k.shape[2]
    if k.shape[-1] != (own * width if k.ndim == 3 else width) or own < 1 or heads % own:
        raise InvalidArguments(
            f"Expected k and v with a number of heads of {width} channels that divides {heads}, got {list(k.shape)}."
        )
    if k.dtype != q.dtype or v.dtype != q.dtype or not q.dtype.is_floating_point:
        raise InvalidArguments(
            f"Expected q, k and v of one floating dtype, got {q.dtype}, {k.dtype} and {v.dtype}; cast them first."
        )
    if mask is not None:
        whole = (q.shape[0], heads, q.shape[1], k.shape[1])
        fits = mask.ndim == 4 and all(side in (1, full) for side, full in zip(mask.shape[:3], whole, strict=False))
        if not (fits or (mask.ndim == 2 and mask.shape[0] in (1, whole[0]))) or mask.shape[-1] != whole[3]:
            raise InvalidArguments(
                f"Expected a mask [{whole[0]} or 1, {whole[3]}] over keys, or one that fits {list(whole)}, got {list(mask.shape)}."
            )
        if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
            raise InvalidArguments(f"Expected a mask of booleans or floating numbers, got {mask.dtype}.")


def by_torch(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None, scale: float | None) -> Tensor:
    """By scaled_dot_product_attention, on any device and with gradients."""
    width = q.shape[-1] // heads if q.ndim == 3 else q.shape[-1]
    q, k, v = ((t.unflatten(-1, (-1, width)) if t.ndim == 3 else t).transpose(1, 2) for t in (q, k, v))  # [B, H, N, D]
    if mask is not None:
        mask = mask[:, None, None, :] if mask.ndim == 2 else mask
        mask = mask if mask.dtype == torch.bool else in_range(mask, q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=k.shape[1] != heads)
    if mask is not None:  # some backends of torch give NaN where every key is forbidden
        some = (mask if mask.dtype == torch.bool else ~mask.isneginf()).any(-1, keepdim=True)
        out = torch.where(some, out, 0.0)
    return out.transpose(1, 2).flatten(2)


def in_range(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add in another dtype, finite numbers staying finite."""
    ends = torch.finfo(dtype)
    return torch.where(mask.isneginf(), mask, mask.clamp(ends.min, ends.max)).to(dtype)


def _triton() -> object:
    from .fwd_triton import forward

    return forward


ATTENTION = Operation(
    "attention",
    (Way("triton", _triton, why_not), ptx("attention", prepare, why_not), Way("torch", lambda: by_torch)),
    check,
    contest=True,
)


def _fake(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    check(q, k, v, heads, mask, scale)
    return q.new_empty(q.shape[0], q.shape[1], q.shape[2] if q.ndim == 3 else heads * q.shape[-1])


def _flops(q: list[int], k: list[int], v: list[int], heads: int, *rest: object, **more: object) -> int:
    """Two products of N by M by D for each head, two operations each."""
    width = q[-1] if len(q) == 4 else q[-1] // heads
    return 4 * q[0] * heads * q[1] * k[1] * width


OPERATOR = define(
    "attention(Tensor q, Tensor k, Tensor v, int heads, Tensor? mask=None, float? scale=None) -> Tensor",
    lambda q, k, v, heads, mask=None, scale=None: ATTENTION(q, k, v, heads, mask, scale),
    _fake,
    _flops,
)

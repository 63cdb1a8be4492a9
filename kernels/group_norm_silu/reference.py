"""Group norm (Wu & He 2018, arXiv 1803.08494, equations 1 to 3) and SiLU as they are written down, for any dtype."""

import torch
from torch import Tensor


def group_norm_silu_reference(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool = True,
    conv_bias: Tensor | None = None,
    embedding: Tensor | None = None,
) -> Tensor:
    """Shapes as in `api.group_norm_silu`."""
    for added in (conv_bias, embedding):
        if added is not None:
            x = x + added[..., None, None]
    grouped = x.unflatten(1, (groups, -1))
    mean = grouped.mean((2, 3, 4), keepdim=True)
    variance = (grouped - mean).square().mean((2, 3, 4), keepdim=True)
    y = ((grouped - mean) / (variance + eps).sqrt()).flatten(1, 2) * weight[:, None, None] + bias[:, None, None]
    return y * torch.sigmoid(y) if silu else y

"""Pictures around a network: range, scale, and laying an edit over the original."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InvalidInput


def out_of_range(image: Tensor) -> str | None:
    """A sentence if values lie outside 0..1 (they are clamped), else None."""
    if not image.numel() or (image.min() >= 0 and image.max() <= 1):
        return None
    low, high = image.min().item(), image.max().item()
    return f"Expected picture values in 0..1, got {low:.2f} to {high:.2f}: they are clamped; check the node before."


def scaled_to(pictures: Tensor, longer_side: int) -> Tensor:
    """[B, C, H, W] scaled so that the longer side has `longer_side` px."""
    scale = longer_side / max(pictures.shape[2:])
    size = [max(1, round(side * scale)) for side in pictures.shape[2:]]
    return F.interpolate(pictures, size, mode="bilinear", antialias=True).clamp(-1, 1)


def check_mask(mask: Tensor, count: int) -> Tensor:
    """A mask [1 or `count`, h, w] or [h, w] as [1 or `count`, h, w], finite."""
    if mask.ndim < 2 or 0 in mask.shape:
        raise InvalidInput(f"Expected a mask [B, H, W] of at least 1 x 1 px, got {list(mask.shape)}.")
    mask = mask.reshape(-1, *mask.shape[-2:])
    if len(mask) not in (1, count):
        raise InvalidInput(f"Expected 1 mask or one for each of the {count} pictures, got {len(mask)}.")
    if not torch.isfinite(mask).all():
        raise InvalidInput("The mask holds values that are not finite (NaN or infinity): check the node that made it.")
    return mask


def composite(image: Tensor, edited: Tensor, mix: float, mask: Tensor | None) -> Tensor:
    """Lay `edited` over `image` (both [B, H, W, C], 0..1) by `mix` and, if given, a mask [1 or B, h, w]; alpha stays."""
    colour = image[..., :3].to(edited).clamp(0, 1).expand_as(edited)
    weight = torch.full_like(edited[..., :1], mix)
    if mask is not None:
        mask = check_mask(mask, len(image)).to(edited).unsqueeze(1)
        mask = F.interpolate(mask, edited.shape[1:3], mode="bilinear").movedim(1, -1)
        weight = weight * mask.clamp(0, 1)
    result = edited if mask is None and mix == 1 else torch.lerp(colour, edited, weight)
    return torch.cat([result, image[..., 3:].to(result)], -1) if image.shape[-1] == 4 else result

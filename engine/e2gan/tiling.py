"""Pictures of any size through a network that wants multiples: mirror-pad and crop back, and tiles when memory is short."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(image: Tensor, multiple: int, margin: int) -> Tensor:
    """Extend [B, C, H, W] by `margin` at the left and top, and at the right and bottom by that much and on to multiples.

    Sides become two multiples at least (a norm over one cell is undefined). New pixels mirror the picture where it is large
    enough, else they repeat its edge.
    """
    height, width = image.shape[2:]
    down, right = (
        max(2 * multiple, side + 2 * margin + -(side + 2 * margin) % multiple) - side - margin for side in (height, width)
    )
    if right:
        image = F.pad(image, (margin, right, 0, 0), mode="reflect" if max(right, margin) < width else "replicate")
    if down:
        image = F.pad(image, (0, 0, margin, down), mode="reflect" if max(down, margin) < height else "replicate")
    return image


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Starts of tiles of `tile` px that cover `length` px, neighbours sharing at least `overlap` px."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(index * (length - tile) / (count - 1)) // 16 * 16 for index in range(count - 1)] + [length - tile]


def _ramp(length: int, overlap: int, *, first: bool, last: bool) -> Tensor:
    """Weights of a tile along one side: rising over the overlap from its neighbours, never zero."""
    rise = (torch.arange(overlap, dtype=torch.float32) + 0.5) / overlap
    weights = torch.ones(length)
    if not first:
        weights[:overlap] = rise
    if not last:
        weights[-overlap:] = torch.minimum(weights[-overlap:], rise.flip(0))
    return weights


def tiled(run: Callable[[Tensor], Tensor], image: Tensor, tile: int, overlap: int) -> Tensor:
    """Apply `run` to overlapping tiles of [B, C, H, W] (sides multiples of 16) and blend them; seams fade over `overlap` px."""
    height, width = image.shape[2:]
    result = torch.zeros_like(image, dtype=torch.float32)
    total = torch.zeros(1, 1, height, width, device=image.device)
    for top, bottom, left, right in _windows(height, width, tile, overlap):
        vertical = _ramp(bottom - top, overlap, first=top == 0, last=bottom == height)
        horizontal = _ramp(right - left, overlap, first=left == 0, last=right == width)
        weight = torch.outer(vertical, horizontal).to(image.device)
        result[:, :, top:bottom, left:right] += run(image[:, :, top:bottom, left:right]).float() * weight
        total[:, :, top:bottom, left:right] += weight
    return result / total


def _windows(height: int, width: int, tile: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    for top in tile_starts(height, tile, overlap):
        for left in tile_starts(width, tile, overlap):
            yield top, min(top + tile, height), left, min(left + tile, width)

"""A sample grid of a training run: photograph | teacher | student, one row a concept."""

from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from .loop import Pairs, to_grey, to_signed


def to_uint8(image: Tensor) -> Tensor:
    """[B, 3, H, W] in -1..1 to uint8 [B, H, W, 3]."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu()


@torch.no_grad()
def save_grid(path: Path, generator: nn.Module, pairs: Pairs, concepts: Iterable[int], columns: int = 3) -> None:
    """Write a PNG of `columns` pictures for each concept; every third column is the student's."""
    rows, generator = [], generator.eval()
    picked = torch.linspace(0, len(pairs.photographs) - 1, columns).long()
    for concept in concepts:
        photograph = to_signed(pairs.photographs[picked].to(pairs.contexts.device))
        photograph = to_grey(photograph) if pairs.grey_input[concept] else photograph
        with torch.autocast(photograph.device.type, torch.bfloat16):
            student = generator(photograph, pairs.contexts[concept].expand(columns, -1, -1))
        triples = torch.stack([to_uint8(photograph), pairs.edits[concept][picked], to_uint8(student)], 1)  # [n, 3, H, W, C]
        rows.append(torch.cat(list(triples.flatten(0, 1)), 1))
    Image.fromarray(torch.cat(rows).numpy()).save(path)

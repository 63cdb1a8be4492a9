"""Where a new concept begins: at the look of the base that is closest to its pairs."""

import torch
from torch import Tensor

from ..engine.e2gan.checkpoint import Base
from .loop import Pairs, held_out_losses
from .lora import generator_of
from .perceptual import LPIPS

PICTURES, SIDE = 4, 128


@torch.no_grad()
def closest_look(base: Base, pairs: Pairs, lpips: LPIPS) -> tuple[str, Tensor]:
    """Name ("" for the unchanged photograph) and context [T, W] of the base's look with the least L1 + LPIPS on a few pairs.

    `pairs` holds one concept; its own context is not looked at.
    """
    device, side = pairs.contexts.device, min(SIDE, *pairs.photographs.shape[1:3])
    photographs, edits = (stack[:PICTURES, :side, :side] for stack in (pairs.photographs, pairs.edits[0]))
    generator, best = generator_of(base, device), (float("inf"), "", base.neutral_context)
    for name, context in {"": base.neutral_context, **base.looks}.items():
        candidate = Pairs(photographs, [edits], context.unsqueeze(0).to(device), pairs.grey_input[:1])
        loss = sum(held_out_losses(generator, candidate, lpips).values())
        if loss < best[0]:
            best = loss, name, context
    return best[1], best[2].half().float()

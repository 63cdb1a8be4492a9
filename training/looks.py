"""Where a new concept begins: at the look of the base that is closest to its pairs."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..engine.e2gan.checkpoint import Base
from .loop import Pairs, held_out_losses
from .lora import generator_of
from .perceptual import LPIPS

PICTURES, SIDE = 6, 128


@torch.no_grad()
def looks(base: Base, pairs: Pairs, lpips: LPIPS) -> Iterator[tuple[int, int, tuple[str, Tensor]]]:
    """Tries every look of the base on the middle of the first few pairs; yields how many are done, of how many, and the best so far.

    A look is its name ("" for the unchanged photograph) and its context [T, W]; the best has the least L1 + LPIPS. `pairs` holds one
    concept; its own context is not looked at.
    """
    device, (height, width) = pairs.contexts.device, pairs.photographs.shape[1:3]
    side = min(SIDE, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = (slice(PICTURES), slice(top, top + side), slice(left, left + side))
    photographs, edits = pairs.photographs[middle], pairs.edits[0][middle]
    generator, best = generator_of(base, device), (float("inf"), "", base.neutral_context)
    known = {"": base.neutral_context, **base.looks}
    for done, (name, context) in enumerate(known.items(), start=1):
        candidate = Pairs(photographs, [edits], context.unsqueeze(0).to(device), pairs.grey_input[:1])
        loss = sum(held_out_losses(generator, candidate, lpips).values())
        if loss < best[0]:
            best = loss, name, context
        yield done, len(known), (best[1], best[2].half().float())


def under(pairs: Pairs, context: Tensor) -> Pairs:
    """The pairs of one concept with a context [T, W], rounded to what a file will hold."""
    return replace(pairs, contexts=context.half().float().unsqueeze(0).to(pairs.contexts.device))


def closest_look(base: Base, pairs: Pairs, lpips: LPIPS) -> tuple[str, Tensor]:
    """Name and context of the look of the base that is closest to the pairs; see `looks`."""
    return list(looks(base, pairs, lpips))[-1][2]

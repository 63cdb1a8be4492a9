"""The workloads that need nothing but torch, by name: each makes a `Workload` for a point, or says why it cannot."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ...errors import InvalidInput
from ...precision import choose
from .gatys import ImageOptimisation, smallest_side, ways_by_memory
from .networks import LAYOUTS, Layout
from .workload import Point, TooLarge, Workload, fits, inferring, learning

# Temporaries of the libraries below torch, which counting does not see: peaks measured on a CPU were 0.8 to 1.2 times the count.
LIBRARY_SHARE = 1.3
HEADS, HEAD_DIM, PIXELS_PER_TOKEN = 8, 40, 64


def image_optimisation(point: Point, free: int) -> Workload:
    """One step of style transfer by VGG-19 or NIN, in the fastest way that fits into `free` bytes."""
    layout = LAYOUTS[point.workload]
    if point.side < smallest_side(layout):
        raise InvalidInput(
            f"Expected a side of at least {smallest_side(layout)} px for {layout.name}, got {point.side}: choose a larger one."
        )
    device, wanted = torch.device(point.device), point.precision
    dtype = torch.float32 if wanted == "auto" else choose(device, wanted).dtype
    way, needed = _way(layout, point, dtype, free)
    job = learning(lambda: ImageOptimisation(layout, point.side, point.batch, device, dtype, way))
    how = {
        "whole": "",
        "checkpoint": "activations recomputed to save memory; ",
        "tiles": f"in {len(job.tiles)} tiles to bound memory; ",
    }
    note = f"{how[way]}random weights, seed 0; counted {needed / 2**20:.0f} MiB"
    return Workload(job.step, point.batch, point.side**2, dtype, note, learning)


def _way(layout: Layout, point: Point, dtype: torch.dtype, free: int) -> tuple[str, int]:
    """The fastest way that fits into `free` bytes, and the bytes it takes."""
    for way, counted in ways_by_memory(layout, point.side, point.batch, dtype):
        needed = int(counted * LIBRARY_SHARE)
        if fits(needed, free):
            return way, needed
    raise TooLarge(needed, free, f"{layout.name} at {point.side} px, even in {way},")


def attention(point: Point, free: int) -> Workload:
    """Self-attention of Stable Diffusion 1.5's outermost level at this picture size: 8 heads of 40, one token for 8 x 8 px."""
    device = torch.device(point.device)
    dtype = choose(device, point.precision).dtype
    tokens = max(1, point.side**2 // PIXELS_PER_TOKEN)
    shape = (point.batch, HEADS, tokens, HEAD_DIM)
    needed = int(LIBRARY_SHARE * 5 * torch.Size(shape).numel() * dtype.itemsize)
    if not fits(needed, free):
        raise TooLarge(needed, free, f"attention over {tokens} tokens")
    q, k, v = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
    return Workload(
        lambda: F.scaled_dot_product_attention(q, k, v), point.batch, point.side**2, dtype, f"{tokens} tokens", inferring
    )


KNOWN: dict[str, Callable[[Point, int], Workload]] = {**dict.fromkeys(LAYOUTS, image_optimisation), "attention": attention}

"""What a run has learnt so far, as a picture: the averaged factors on held-out pairs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .grid import to_uint8
from .loop import Pairs, Trainer, to_signed

SHARE = 0.01  # of the time may go into previews


@contextmanager
def averaged(trainer: Trainer) -> Iterator[None]:
    """The averaged factors in the generator for a while, then the trained ones again."""

    def swap() -> None:
        for name, parameter in trainer.parameters.items():
            parameter.data, trainer.ema[name] = trainer.ema[name], parameter.data

    swap()
    try:
        yield
    finally:
        swap()


@torch.no_grad()
def picture(trainer: Trainer, held_out: Pairs) -> Tensor:
    """Before | teacher | student of up to two held-out pictures, uint8 [H, W, 3]."""
    rows = min(2, len(held_out.photographs))
    before, after = held_out.photographs[:rows], held_out.edits[0][:rows]
    with averaged(trainer), torch.autocast(trainer.device.type, torch.bfloat16):
        student = trainer.generator(to_signed(before.to(trainer.device)), held_out.contexts.expand(rows, -1, -1))
    return torch.cat(list(torch.cat([before, after, to_uint8(student)], 2)))


class Preview:
    """The picture, as often as its share of the time allows."""

    def __init__(self) -> None:
        self._last, self._cost = 0.0, 0.0

    def __call__(self, draw: Callable[[], Tensor]) -> Tensor | None:
        start = time.perf_counter()
        if start - self._last < self._cost / SHARE:
            return None
        grid = draw()
        self._last = time.perf_counter()
        self._cost = self._last - start
        return grid

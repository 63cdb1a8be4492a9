"""One point of a sweep as something that runs: iterations, what one makes, and what it needs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """What to measure: a workload by name, pictures of side x side px, and how."""

    workload: str
    side: int
    batch: int
    device: str
    precision: str

    def facts(self) -> dict[str, object]:
        return {
            "workload": self.workload,
            "side_px": self.side,
            "batch": self.batch,
            "device": self.device,
            "precision": self.precision,
        }


@dataclass(frozen=True)
class Workload:
    """`run` is one iteration. `within` calls a function where `run` can be used: in inference mode, with autograd, in a sampler."""

    run: Callable[[], object]
    images: int
    pixels: int
    dtype: torch.dtype
    note: str = ""
    within: Callable[[Callable[[], Any]], Any] = field(default=lambda body: body())


def inferring(body: Callable[[], T]) -> T:
    with torch.inference_mode():
        return body()


def learning(body: Callable[[], T]) -> T:
    with torch.inference_mode(False), torch.enable_grad():
        return body()


class TooLarge(Exception):
    """A point needs more memory than is free."""

    def __init__(self, needed: int, free: int, what: str) -> None:
        super().__init__(f"{what} needs about {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free")


def fits(needed: int, free: int) -> bool:
    """Whether `needed` bytes can be taken with a fifth of what is free left over for the rest of the machine."""
    return needed <= 0.8 * free

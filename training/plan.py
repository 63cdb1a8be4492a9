"""What a user asks of a training run (`Plan`), which pairs it learns from (`split`), and how it tells of itself (`Update`)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.errors import InvalidInput
from .loop import MOST_SCORED, Settings
from .losses import LossWeights
from .pairs import PairSet

HELD_OUT_SHARE = 7


@dataclass(frozen=True)
class Plan:
    """What to train. `steps` wins over `minutes`; with minutes the first steps are timed to know how many fit in."""

    name: str
    prompt: str = ""
    minutes: float = 5.0
    steps: int = 0
    searched: bool = True
    batch: int = 6
    crop: int = 160
    loss_crop: int = 96
    lr: float = 1e-2
    l1: float = 1.0
    lpips: float = 1.0
    adversarial: float = 0.02
    seed: int = 0

    def settings(self, steps: int, side: int) -> Settings:
        weights = LossWeights(self.l1, self.lpips, self.adversarial)
        crop = min(self.crop, side)
        return Settings(
            steps, self.batch, crop, min(self.loss_crop, crop), self.lr, warmup=20, adversarial_from=0, ema=0.98, seed=self.seed,
            weights=weights,
        )  # fmt: skip


@dataclass(frozen=True)
class Update:
    """Where a run stands. `total` is 0 while it is not known yet; `preview` is uint8 [H, W, 3], now and then."""

    phase: str
    done: int
    total: int
    losses: Mapping[str, float]
    steps_per_second: float = 0.0
    score: float | None = None
    preview: Tensor | None = None

    @property
    def text(self) -> str:
        """One line: step, rate, time left, losses, score."""
        parts = [self.phase]
        if self.total:
            parts.append(f"step {self.done} of {self.total}")
        if self.steps_per_second:
            left = (self.total - self.done) / self.steps_per_second
            parts += [f"{self.steps_per_second:.2f} steps/s", f"{left / 60:.1f} min left"]
        parts += [f"{name} {value:.3f}" for name, value in self.losses.items()]
        parts += [f"held-out {self.score:.3f}"] if self.score is not None else []
        return ", ".join(parts)


def split(pairs: PairSet) -> tuple[list[int], list[int]]:
    """Indices to train on and held out: a seventh of the pairs, at least one, and no more than are scored.

    Held out are the first by the hash of their contents, so the order they come in does not matter.
    """
    if len(pairs) < 2:
        raise InvalidInput(f"Expected at least 2 pairs to learn from and to check with, got {len(pairs)}: collect more.")
    order = sorted(range(len(pairs)), key=lambda index: pairs.pairs[index].key)
    count = max(1, min(MOST_SCORED, len(order) // HELD_OUT_SHARE))
    return sorted(order[count:]), sorted(order[:count])


def check_worth_learning(pairs: PairSet) -> None:
    if all(torch.equal(pair.before, pair.after) for pair in pairs.pairs):
        raise InvalidInput(f"All {len(pairs)} pairs are the same before and after, so there is nothing to learn: check the edit.")

"""What a user asks of a training run (`Plan`), which pairs it learns from (`split`), and how it tells of itself (`Update`)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.errors import InvalidInput
from .loop import MOST_SCORED, Settings
from .losses import LossWeights
from .pairs import PairSet

HELD_OUT_SHARE = 7
LONGEST_WARMUP = 20  # steps, and never more than a tenth of the run
SCORES, LEAST_APART = 10, 30  # held-out scores in a run, and steps between two of them
# Of the minutes, what may have passed when the look is chosen and when the ranks are found; the rest is for training.
LOOK_SHARE, SEARCH_SHARE = 0.5, 0.35
LEAST_STEPS = 10


@dataclass(frozen=True)
class Plan:
    """What to train. `steps` wins over `minutes`, which are the time in all: look, ranks, training and scores."""

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

    def __post_init__(self) -> None:
        for name, value in (("minutes", self.minutes), ("lr", self.lr)):
            if not (math.isfinite(value) and value > 0):
                raise InvalidInput(
                    f"Expected {name} to be a number above 0, got {value}: enter one, such as 5 minutes or an lr of 0.01."
                )

    @property
    def seconds(self) -> float:
        """Time in all; infinite if steps are asked for."""
        return math.inf if self.steps else 60 * self.minutes

    @property
    def asked(self) -> dict[str, object]:
        """What the result depends on beside base and pairs. The learning rate follows the length, so another length is another run."""
        quality = [self.searched, self.batch, self.crop, self.loss_crop, self.l1, self.lpips, self.adversarial]
        length = f"{self.steps} steps" if self.steps else f"{self.minutes:g} minutes"
        return {"length": length, "quality": quality, "lr": self.lr, "seed": self.seed}

    def settings(self, steps: int, side: int) -> Settings:
        weights = LossWeights(self.l1, self.lpips, self.adversarial)
        crop, warmup = min(self.crop, side), max(1, min(LONGEST_WARMUP, steps // 10))
        return Settings(
            steps, self.batch, crop, min(self.loss_crop, crop), self.lr, warmup=warmup, adversarial_from=0, ema=0.98, seed=self.seed,
            weights=weights,
        )  # fmt: skip


@dataclass(frozen=True)
class Update:
    """Where a run stands. `total` is 0 while it is not known yet; `preview` is uint8 [H, W, 3], now and then.

    `note` says how the run began; `warning` why its place is not kept.
    """

    phase: str
    done: int
    total: int
    losses: Mapping[str, float]
    steps_per_second: float = 0.0
    score: float | None = None
    preview: Tensor | None = None
    note: str = ""
    warning: str = ""

    @property
    def text(self) -> str:
        """One line: warning, note, step, rate, time left, losses, score."""
        parts = [self.phase]
        if self.total:
            parts.append(f"step {self.done} of {self.total}")
        if self.steps_per_second:
            left = (self.total - self.done) / self.steps_per_second
            parts += [f"{self.steps_per_second:.2f} steps/s", f"{left / 60:.1f} min left"]
        parts += [f"{name} {value:.3f}" for name, value in self.losses.items()]
        parts += [f"held-out {self.score:.3f}"] if self.score is not None else []
        return "; ".join(filter(None, (self.warning, self.note, ", ".join(parts))))


def scores_every(steps: int) -> int:
    """Steps between two held-out scores."""
    return max(LEAST_APART, steps // SCORES)


def steps_within(seconds: float, step_s: float, score_s: float) -> int:
    """Steps that fit into a time together with their scores, at least LEAST_STEPS.

    There is a score every LEAST_APART steps, at most SCORES in all: the time of n steps is the lesser of two straight lines.
    """
    few, many = seconds / (step_s + score_s / LEAST_APART), (seconds - SCORES * score_s) / step_s
    return max(LEAST_STEPS, round(max(few, many)))


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

"""How a training run tells of itself: a line with rate and time left, log.jsonl, and which units are still alive."""

import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from ..engine.e2gan.model import Down, Generator, Up
from .loop import Step


@torch.no_grad()
def live_units(generator: Generator, pictures: Tensor, contexts: Tensor) -> dict[str, float]:
    """For each layer that ends in a ReLU, the share of its channels that are above zero anywhere in these pictures.

    A channel at zero everywhere passes no gradient and may never come back; a layer of them cuts off all that lies before it.
    Pictures [B, 3, H, W] in -1..1 and contexts [B, T, W]. Healthy layers show 0.9 and more.
    """
    shares: dict[str, float] = {}
    layers = {module: name for name, module in generator.named_modules() if isinstance(module, Down | Up)}

    def look(module, _, output: Tensor) -> None:
        shares[layers[module]] = (output > 0).any(3).any(2).any(0).float().mean().item()

    hooks = [module.register_forward_hook(look) for module in layers]
    try:
        generator(pictures, contexts)
    finally:
        for hook in hooks:
            hook.remove()
    return shares


class Progress:
    """Averages losses over `every` steps and writes them to the terminal and to a JSON-lines file."""

    def __init__(self, log: Path, steps: int, first_step: int, every: int = 25) -> None:
        self.log, self.steps, self.every = log, steps, every
        self.sums: dict[str, float] = defaultdict(float)
        self.count, self.first, self.start = 0, first_step, time.perf_counter()

    def show(self, step: Step) -> None:
        for name, value in step.losses.items():
            self.sums[name] += value
        self.count += 1
        if step.index % self.every and step.index != self.steps:
            return
        rate = (step.index - self.first) / (time.perf_counter() - self.start)
        means = {name: round(value / self.count, 4) for name, value in self.sums.items()}
        losses = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        minutes = (self.steps - step.index) / rate / 60
        sys.stdout.write(f"{step.index}/{self.steps}  {rate:.2f} steps/s  {minutes:.1f} min left  {losses}\n")
        sys.stdout.flush()
        with self.log.open("a") as file:
            file.write(json.dumps({"step": step.index, "steps_per_s": round(rate, 3), **means}) + "\n")
        self.sums.clear()
        self.count = 0

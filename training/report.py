"""How a training run tells of itself on the command line: a line with rate and time left, and log.jsonl."""

import json
import sys
import time
from collections import defaultdict
from pathlib import Path

from .loop import Step


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

"""How a few-step student is driven: its timesteps, guidance and conventions as data, and which of its steps a run takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .errors import InvalidInput

TRAINED = 1000  # timesteps of every model of the SD family
SKIPPED = 20  # LCM and TCD choose out of every 20th of them: 999, 979 ... 19
SOLVERS = ("ddim", "euler", "lcm", "tcd")
PREDICTIONS = ("eps", "v", "x0")


def sd_sigmas() -> Tensor:
    """Noise level of each timestep of SD 1.x, 2.x and SDXL [1000]: betas of 0.00085 to 0.012, linear in their roots."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TRAINED, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    return ((1 - kept) / kept).sqrt().float()


def trailing(count: int) -> tuple[int, ...]:
    """The ends of `count` equal parts of the training timesteps; 8 gives 999, 874, 749 ... 124."""
    step = (TRAINED - TRAINED / count) - TRAINED  # numpy's arange steps by this difference; halves must round as in diffusers
    return tuple(round(TRAINED + part * step) - 1 for part in range(count))


def consistency(count: int) -> tuple[int, ...]:
    """`count` out of the 50 timesteps of consistency distillation; 8 gives 999, 879, 759 ... 139."""
    known = TRAINED // SKIPPED
    return tuple(TRAINED - 1 - SKIPPED * math.floor(part * (known / count)) for part in range(count))


RULES = {"trailing": (trailing, TRAINED), "consistency": (consistency, TRAINED // SKIPPED)}


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance as ComfyUI counts it: 1 is off. An embedded scale goes into the network, which runs once a step."""

    kind: str = "off"  # off | range | embedded
    default: float = 1.0
    low: float = 1.0
    high: float = 1.0

    def complaint(self, value: float, title: str) -> str | None:
        """A sentence about a value that the student was not distilled for."""
        if self.low <= value <= self.high:
            return None
        if self.kind == "off":
            return f"{title} was distilled without guidance, got {value:g}: set it to 1 (off), or colours burn and time doubles."
        return f"{title} expects guidance of {self.low:g} to {self.high:g}, got {value:g}: expect a dull or burnt picture."


@dataclass(frozen=True)
class Student:
    """One row of the table. What `unverified` names is ours or remembered, not read in the source."""

    id: str
    title: str
    rule: str | tuple[int, ...]  # a name in RULES, or the timesteps themselves
    steps: tuple[int, ...]  # counts it was distilled for
    default_steps: int
    solver: str
    prediction: str = "eps"
    guidance: Guidance = Guidance()
    eta: float = 0.0  # ddim, euler: share of fresh noise; tcd: gamma. lcm takes fresh noise always
    start: str = "unit"  # pure noise of variance 1, or of the first sigma ("sigma"), as its diffusers scheduler begins
    final: str = "zero"  # ends at no noise, or at the level of timestep 0 ("first")
    resolution: tuple[tuple[str, int], ...] = (("sd15", 512), ("sdxl", 1024))  # px by family of the base
    licence: str = "unknown"
    source: str = ""
    unverified: str = ""

    @property
    def first_timestep(self) -> int:
        return TRAINED - 1 if isinstance(self.rule, str) else self.rule[0]

    def timesteps(self, count: int = 0) -> tuple[int, ...]:
        """Its grid of `count` steps (0: its own number), falling."""
        count = count or self.default_steps
        if not isinstance(self.rule, str):
            if count != len(self.rule):
                steps = ", ".join(map(str, self.rule))
                raise InvalidInput(
                    f"{self.title} has exactly {len(self.rule)} steps ({steps}), got {count}: set steps to 0 or {len(self.rule)}."
                )
            return self.rule
        rule, most = RULES[self.rule]
        if not 1 <= count <= most:
            raise InvalidInput(f"Expected 1 to {most} steps for {self.title}, got {count}: its grid has no more.")
        grid = rule(count)
        if self.final == "first" and not grid[-1]:
            raise InvalidInput(f"Expected fewer steps for {self.title}, got {count}: its grid would end at timestep 0 twice.")
        return grid


@dataclass(frozen=True)
class Plan:
    """A run of a student: the timesteps it takes, and what should be said about them."""

    student: Student
    grid: tuple[int, ...]
    timesteps: tuple[int, ...]  # a suffix of the grid
    guidance: float
    warnings: tuple[str, ...]

    def sigmas(self, table: Tensor) -> Tensor:
        """Noise levels of the run and the one it ends at, out of `table` [1000]; empty where no step runs."""
        if not self.timesteps:
            return table.new_empty(0)
        levels = table[list(self.timesteps)]
        return torch.cat([levels, table[:1] if self.student.final == "first" else levels.new_zeros(1)])

    def __str__(self) -> str:
        chosen = self.student
        steps = f"{len(self.timesteps)} of {len(self.grid)} steps: {', '.join(map(str, self.timesteps)) or 'none'}"
        noise = f", eta {chosen.eta:g}" if chosen.solver != "lcm" else ", fresh noise each step"
        embedded = " (embedded)" if chosen.guidance.kind == "embedded" else " (off)" if self.guidance == 1 else ""
        lines = [
            f"{chosen.title} ({chosen.id})",
            steps,
            f"solver {chosen.solver}{noise}; guidance {self.guidance:g}{embedded}",
        ]
        if chosen.unverified:
            lines.append(f"Not verified: {chosen.unverified}")
        return "\n".join([*lines, *(f"Warning: {sentence}" for sentence in self.warnings)])


def suffix(grid: Sequence[int], denoise: float) -> tuple[int, ...]:
    """The last steps of a grid that a `denoise` of 0 to 1 asks for, to the nearest step, and at least one above 0."""
    if not 0 <= denoise <= 1:
        raise InvalidInput(f"Expected denoise between 0 and 1, got {denoise:g}.")
    count = max(math.floor(denoise * len(grid) + 0.5), 1 if denoise > 0 else 0)
    return tuple(grid[len(grid) - count :])


def plan(student: Student, steps: int = 0, denoise: float = 1.0, guidance: float = 0.0) -> Plan:
    """A run on the student's grid; 0 steps and a guidance of 0 are the student's own."""
    grid, value = student.timesteps(steps), guidance or student.guidance.default
    if not (math.isfinite(value) and value > 0):
        raise InvalidInput(f"Expected guidance above 0 (1 is off, 0 the student's own), got {guidance:g}.")
    warnings = [student.guidance.complaint(value, student.title)]
    if len(grid) not in student.steps:
        known = ", ".join(map(str, student.steps))
        warnings.append(
            f"{student.title} was distilled for {known} steps, got {len(grid)}: set steps to 0 or take the file for {len(grid)}."
        )
    timesteps = suffix(grid, denoise)
    if denoise < 1 and timesteps == grid:
        less = len(grid) - 1
        runs = f"all {len(grid)} steps, as 1 does: {less / len(grid):.3g} runs {less}" if less else "the one step, as 1 does"
        warnings.append(
            f"A denoise of {denoise:g} runs {runs}; to keep more of a picture, lower it or take a student of more steps."
        )
    return Plan(student, grid, timesteps, value, tuple(filter(None, warnings)))


def parse_timesteps(text: str) -> tuple[int, ...]:
    """Falling timesteps of a user's list, such as "999, 749, 499, 249"."""
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isdecimal() for part in parts):
        raise InvalidInput(f"Expected timesteps such as '999, 749, 499, 249', got '{text}': write whole numbers below {TRAINED}.")
    steps = tuple(map(int, parts))
    if steps[0] >= TRAINED or steps[-1] < 1 or any(a <= b for a, b in pairwise(steps)):
        raise InvalidInput(f"Expected timesteps that fall, between {TRAINED - 1} and 1, got '{text}': put them in order.")
    return steps

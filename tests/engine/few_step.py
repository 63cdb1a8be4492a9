"""diffusers driving a student, as the reference: its scheduler for a row of the table, and its sampling loop."""

from __future__ import annotations

from collections.abc import Callable

import diffusers
from hotpath.engine.schedules import Student
from hotpath.tests.testing import random
from torch import Tensor

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# The settings that a base's pipeline comes with, which its students' cards hand on: `Scheduler.from_config(pipe.scheduler.config)`.
# Source: scheduler_config.json of SD 1.5 (PNDM) and of SDXL base (Euler). diffusers, which converts a single file of either to a
# pipeline, writes the same end (pipelines/stable_diffusion/convert_from_ckpt.py).
BASES = {
    "sd15": ("PNDMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1}),
    "sdxl": ("EulerDiscreteScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
}
BASES["sd2"] = BASES["sd15"]  # only SD-Turbo, which Euler drives: no part of what differs has an effect
# Where no card builds the scheduler from the base's: set_alpha_to_one by the beginning of a student's id.
ENDS = {
    "snapfusion": True,  # no public pipeline: diffusers' default
    "pcm": False,  # said to be important in its training code
}
NAMES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def scheduler(student: Student, count: int = 0, table: Tensor | None = None):
    """diffusers' scheduler for a student, as its card or code sets it up, with its timesteps set."""
    family, _ = student.resolution[0] if student.resolution else ("sd15", 512)
    base, settings = BASES[family]
    changes: dict[str, object] = {"timestep_spacing": "trailing"} if student.solver in ("ddim", "euler") else {}
    for start, end in ENDS.items():
        if student.id.startswith(start):
            changes["set_alpha_to_one"] = end
    kind = {"ddim": "DDIM", "lcm": "LCM", "tcd": "TCD"}.get(
        student.solver, "EulerAncestralDiscrete" if student.eta else "EulerDiscrete"
    )
    pipeline = getattr(diffusers, base).from_config({**SCHEDULE, **settings})
    made = getattr(diffusers, f"{kind}Scheduler").from_config(
        pipeline.config, prediction_type=NAMES[student.prediction], **changes
    )
    count = count or student.default_steps
    if table is not None:
        made.alphas_cumprod = 1 / (1 + table.double() ** 2)
    if isinstance(student.rule, str):
        made.set_timesteps(count)
    else:
        made.set_timesteps(timesteps=list(student.rule))
    return made


def table_of(made) -> Tensor:
    return ((1 - made.alphas_cumprod) / made.alphas_cumprod).sqrt()


def gaussian(x: Tensor, sigma: Tensor, mean: float = 0.7, spread: float = 0.5) -> Tensor:
    """The exact denoiser of pictures whose every number is drawn from N(mean, spread^2)."""
    sigma = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return (spread**2 * x + sigma**2 * mean) / (spread**2 + sigma**2)


def prediction(x: Tensor, denoised: Tensor, sigma: Tensor, kind: str) -> Tensor:
    """What a network of that kind says where `denoised` is its answer."""
    noise = (x - denoised) / sigma
    scale = (1 + sigma**2) ** -0.5
    return {"eps": noise, "x0": denoised, "v": scale * noise - sigma * scale * denoised}[kind]


def reference(
    student: Student,
    noise: Tensor,
    denoiser: Callable[[Tensor, Tensor], Tensor],
    seed: int,
    count: int = 0,
    table: Tensor | None = None,
    picture: Tensor | None = None,
    last: int = 0,
) -> list[Tensor]:
    """The latent before each step and the last one, variance-preserving, by diffusers' loop: from pure noise, or the `last`
    steps from a picture with noise."""
    made, source = scheduler(student, count, table), random(seed)
    timesteps = made.timesteps[-last:]
    table, sample = table_of(made).float(), noise * made.init_noise_sigma
    if picture is not None:
        if hasattr(made, "set_begin_index"):  # DDIM keeps no index
            made.set_begin_index(len(made.timesteps) - last)
        sample = made.add_noise(picture, noise, timesteps[:1])
    scaled, seen = student.solver == "euler", []
    for t in timesteps:
        sigma = table[int(t)]
        seen.append(made.scale_model_input(sample, t))
        k_space = sample if scaled else sample * (1 + sigma**2).sqrt()
        output = prediction(k_space, denoiser(k_space, sigma), sigma, student.prediction)
        options = {"eta": student.eta} if student.solver in ("ddim", "tcd") else {}
        if student.solver != "euler" or student.eta:
            options["generator"] = source
        sample = made.step(output, t, sample, **options).prev_sample
    return [*seen, sample]

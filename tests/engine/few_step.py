"""diffusers driving a student, as the reference: its scheduler for a row of the table, and its sampling loop."""

from __future__ import annotations

from collections.abc import Callable

import diffusers
from hotpath.engine.schedules import Student
from hotpath.tests.testing import random
from torch import Tensor

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NAMES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def scheduler(student: Student, count: int = 0, table: Tensor | None = None):
    """diffusers' scheduler for a student, as its card or code sets it up, with its timesteps set."""
    config = {**SCHEDULE, "prediction_type": NAMES[student.prediction]}
    count = count or student.default_steps
    if student.solver == "ddim":
        made = diffusers.DDIMScheduler(**config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True)
    elif student.solver == "euler":
        kind = diffusers.EulerAncestralDiscreteScheduler if student.eta else diffusers.EulerDiscreteScheduler
        made = kind(**config, timestep_spacing="trailing")
    else:
        kind = diffusers.LCMScheduler if student.solver == "lcm" else diffusers.TCDScheduler
        made = kind(**config, original_inference_steps=50, clip_sample=False, set_alpha_to_one=student.solver == "lcm")
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

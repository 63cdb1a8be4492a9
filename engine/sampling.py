"""Solvers of few-step students, in k-diffusion's signature: model(x, sigma, **extra_args) gives the denoised x.

x is picture + sigma * noise. With abar = 1 / (1 + sigma^2), diffusers' variance-preserving latent is x / sqrt(1 + sigma^2).
`table` holds the noise level of each training timestep, rising. Sigmas fall; they end at 0, or at the level of
timestep 0, where the latent is finished as it is and comes back variance-preserving, as diffusers leaves it.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .errors import InvalidInput
from .schedules import sd_sigmas

NoiseSampler = Callable[[float, float], Tensor]
Step = Callable[[Tensor, Tensor, float, float], Tensor]  # x, denoised, its sigma, the next sigma -> the next x


def image_seed(seed: int, image: int) -> int:
    """The seed of the step noise of a batch's picture number `image`; far from `seed` itself, which the start noise is drawn by."""
    return int.from_bytes(hashlib.sha256(f"hotpath step noise {seed} {image}".encode()).digest()[:7], "big")


def step_noise(x: Tensor, seed: int | None = None, images: Sequence[int] | None = None) -> NoiseSampler:
    """Noise shaped like x, new at each call. Each image draws from a CPU generator of its own, made of the seed and its
    number, so a picture is the same whatever the device and whatever else is in its batch."""
    numbers = range(x.shape[0]) if images is None else images
    sources = [torch.Generator().manual_seed(image_seed(seed or 0, number)) for number in numbers]

    def sample(_sigma: float, _following: float) -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=source) for source in sources]).to(x)

    return sample


def timestep_of(sigma: float, table: Tensor) -> int:
    """The training timestep whose noise level is nearest."""
    return int((table.log() - math.log(sigma)).abs().argmin())


def _ddim(noise: NoiseSampler, eta: float, levels: Tensor) -> Step:
    """DDIM (arXiv 2010.02502, equation 12) for any prediction; eta 1 is the ancestral sampler."""

    def step(x: Tensor, denoised: Tensor, sigma: float, following: float) -> Tensor:
        fresh = eta * following * math.sqrt(1 - (following / sigma) ** 2)
        kept = math.sqrt(following**2 - fresh**2)
        moved = denoised + (kept / sigma) * (x - denoised)
        return moved + fresh * noise(sigma, following) if fresh else moved

    return step


def _lcm(noise: NoiseSampler, eta: float, levels: Tensor) -> Step:
    """Multistep consistency sampling (arXiv 2310.04378, algorithm 3): to the end, then up again by fresh noise; eta has no part."""

    def step(x: Tensor, denoised: Tensor, sigma: float, following: float) -> Tensor:
        scaled = 10 * timestep_of(sigma, levels)  # boundary condition of the paper, sigma_data 0.5
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / math.sqrt(scaled**2 + 0.25)
        ended = out * denoised + (skip / math.sqrt(1 + sigma**2)) * x
        return ended + following * noise(sigma, following) if following else ended

    return step


def _tcd(noise: NoiseSampler, eta: float, levels: Tensor) -> Step:
    """Strategic stochastic sampling of TCD (arXiv 2402.19159, algorithm 4); eta is its gamma: down to floor((1 - eta) * next
    timestep), then up to the next level by fresh noise."""

    def step(x: Tensor, denoised: Tensor, sigma: float, following: float) -> Tensor:
        if not following:
            return denoised
        # in float32 like the authors' code, so that floor falls on the same timestep
        target = int(torch.floor((1 - eta) * torch.tensor(timestep_of(following, levels))))
        reached = min(float(levels[target]), following) if eta else following
        moved = denoised + (reached / sigma) * (x - denoised)
        fresh = math.sqrt(following**2 - reached**2)
        return moved + fresh * noise(sigma, following) if fresh else moved

    return step


def _solver(step_of: Callable[[NoiseSampler, float, Tensor], Step], own_eta: float) -> Callable[..., Tensor]:
    """A solver in k-diffusion's signature of what gives its step: (fresh noise, eta, noise levels) -> step."""

    def sample(
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict | None = None,
        callback: Callable[[dict], None] | None = None,
        disable: bool | None = None,
        *,
        eta: float = own_eta,
        noise_sampler: NoiseSampler | None = None,
        table: Tensor | None = None,
    ) -> Tensor:
        if not 0 <= eta <= 1:
            raise InvalidInput(f"Expected eta between 0 and 1, got {eta:g}.")
        noise = noise_sampler or step_noise(x, (extra_args or {}).get("seed"))
        return _walk(model, x, sigmas, extra_args, callback, table, step_of(noise, eta, _levels(table)))

    sample.__doc__ = step_of.__doc__
    return sample


sample_ddim, sample_lcm, sample_tcd = _solver(_ddim, 0.0), _solver(_lcm, 0.0), _solver(_tcd, 0.3)


def sample_euler(*args: object, **options: object) -> Tensor:
    """Euler's method on sigma (arXiv 2206.00364). In these coordinates it is DDIM's step, its ancestral variant eta 1."""
    return sample_ddim(*args, **options)


SAMPLERS = {"ddim": sample_ddim, "euler": sample_euler, "lcm": sample_lcm, "tcd": sample_tcd}


def _few(levels: Sequence[float]) -> str:
    shown = ", ".join(f"{level:.4g}" for level in levels[:12])
    return f"{shown} and {len(levels) - 12} more" if len(levels) > 12 else shown


def _levels(table: Tensor | None) -> Tensor:
    return sd_sigmas() if table is None else table.detach().float().cpu()


def _walk(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None,
    callback: Callable[[dict], None] | None,
    table: Tensor | None,
    step: Step,
) -> Tensor:
    """The loop all solvers share; `callback` comes after each model call, which is where a run is watched and stopped."""
    extra_args, levels = extra_args or {}, sigmas.tolist()
    if not all(math.isfinite(a) and a > b >= 0 for a, b in pairwise(levels)):
        raise InvalidInput(f"Expected sigmas that fall to 0 or above, got {_few(levels)}: take them from Student Schedule.")
    ones, denoised = x.new_ones(x.shape[0]), x
    for index, (sigma, following) in enumerate(pairwise(levels)):
        denoised = model(x, sigmas[index] * ones, **extra_args)
        if callback is not None:
            callback({"x": x, "i": index, "sigma": sigmas[index], "sigma_hat": sigmas[index], "denoised": denoised})
        x = step(x, denoised, sigma, following)
    if len(levels) < 2 or not (levels[-1] == 0 or math.isclose(levels[-1], float(_levels(table)[0]), rel_tol=1e-5)):
        return x  # a part of a run, still noisy
    mask = extra_args.get("denoise_mask")  # 1 where to paint; elsewhere the denoised is the picture that stays, free of noise
    x = x / math.sqrt(1 + levels[-1] ** 2)
    return x if mask is None else denoised + mask * (x - denoised)

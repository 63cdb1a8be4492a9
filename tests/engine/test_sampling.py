"""Every solver against diffusers' scheduler of the same name, and against what the mathematics says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hotpath.engine.errors import InvalidInput
from hotpath.engine.sampling import SAMPLERS, sample_ddim, sample_lcm, sample_tcd, step_noise, timestep_of
from hotpath.engine.schedules import Student, plan, sd_sigmas
from hotpath.engine.students import STUDENTS, custom
from hotpath.tests.engine import few_step
from hotpath.tests.testing import random
from torch import Tensor

NOISE = torch.randn(2, 4, 6, 8, generator=random(1))
VARIANTS = {
    **STUDENTS,
    "tcd at 4 steps": replace(STUDENTS["tcd"], default_steps=4, eta=0.8),
    "unified Hyper-SD at 8 steps": replace(STUDENTS["hyper_sd_1"], default_steps=8, eta=0.5),
    "ddim with eta": replace(STUDENTS["hyper_sd_8"], eta=0.6),
    "tcd for v": replace(STUDENTS["tcd"], prediction="v"),
    "lcm down to timestep 1": custom("999 500 1", "lcm"),
    "lcm for v": replace(STUDENTS["lcm_lora"], prediction="v"),
}
each = pytest.mark.parametrize("student", VARIANTS.values(), ids=VARIANTS.keys())


def ours(student: Student, noise: Tensor, denoiser: Callable[[Tensor, Tensor], Tensor], seed: int) -> list[Tensor]:
    """The latent before each step and the last one, variance-preserving, from pure noise."""
    table, source, seen = few_step.table_of(few_step.scheduler(student)), random(seed), []
    sigmas = plan(student).sigmas(table)
    start = sigmas[0] if student.start == "sigma" else (1 + sigmas[0] ** 2).sqrt()

    def note(state: dict) -> None:
        seen.append(state["x"] / (1 + state["sigma"] ** 2).sqrt())

    last = SAMPLERS[student.solver](
        lambda x, sigma: denoiser(x, sigma[0]),
        noise * start,
        sigmas,
        callback=note,
        eta=student.eta,
        noise_sampler=lambda *_: torch.randn(noise.shape, generator=source),
        table=table,
    )
    return [*seen, last]


@each
def test_each_step_is_that_of_diffusers(student: Student) -> None:
    found = ours(student, NOISE, few_step.gaussian, 5)
    wanted = few_step.reference(student, NOISE, few_step.gaussian, 5)
    assert len(found) == len(wanted) == student.default_steps + 1
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def unet() -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser of a small UNet of diffusers with random weights, taking its output for noise."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=2,
        ).eval()
    context, table = torch.randn(2, 5, 8, generator=random(2)), sd_sigmas()

    @torch.no_grad()
    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        said = network(x / (1 + sigma**2).sqrt(), timestep_of(float(sigma), table), context).sample
        return x - sigma * said

    return denoise


@pytest.mark.parametrize("name", ["snapfusion_8", "hyper_sd_8", "sdxl_lightning_8", "lcm_lora", "tcd", "dmd2_4", "sdxl_turbo"])
def test_each_step_is_that_of_diffusers_on_a_network(name: str, unet: Callable[[Tensor, Tensor], Tensor]) -> None:
    found, wanted = (run(STUDENTS[name], NOISE, unet, 6) for run in (ours, few_step.reference))
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert wanted[-1].std() > 0.1


# ---- what the mathematics says


def start(sigma: Tensor) -> Tensor:
    return torch.randn(1, 4, 64, 64, generator=random(8)) * sigma


def test_ddim_on_a_gaussian_is_a_known_product() -> None:
    """Each step takes x - mean to (s^2 + sigma sigma') / (s^2 + sigma^2) of itself."""
    sigmas = plan(STUDENTS["snapfusion_8"]).sigmas(sd_sigmas())
    x = start(sigmas[0])
    shrunk = torch.prod(torch.tensor([(0.25 + a * b) / (0.25 + a * a) for a, b in pairwise(sigmas.tolist())]))
    torch.testing.assert_close(sample_ddim(few_step.gaussian, x, sigmas), 0.7 + (x - 0.7) * shrunk, rtol=1e-5, atol=1e-5)


def test_ddim_comes_close_to_the_exact_flow_with_more_steps() -> None:
    """The flow takes x to mean + (x - mean) s / sqrt(s^2 + sigma^2); the error falls with the number of steps."""
    table, errors = sd_sigmas(), []
    for count in (8, 64, 512):
        sigmas = plan(custom(" ".join(map(str, STUDENTS["hyper_sd_8"].timesteps(count))))).sigmas(table)
        x = start(sigmas[0])
        exact = 0.7 + (x - 0.7) * 0.5 / (0.25 + sigmas[0] ** 2).sqrt()
        errors.append((sample_ddim(few_step.gaussian, x, sigmas) - exact).abs().max().item())
    assert errors[0] > 4 * errors[1] > 16 * errors[2]


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_fresh_noise_has_the_variance_it_should(eta: float) -> None:
    """A perfect denoiser of one known picture: x at each level is that picture and noise of just that level."""
    table, picture = sd_sigmas(), torch.full((1, 4, 64, 64), 0.3)
    spread: list[tuple[float, float]] = []

    def note(state: dict) -> None:
        spread.append(((state["x"] - picture).std().item(), state["sigma"].item()))

    for name, solver in SAMPLERS.items():
        sigmas = plan(STUDENTS["tcd"]).sigmas(table)
        solver(lambda x, _: picture, picture + start(sigmas[0]), sigmas, callback=note, eta=eta, table=table, extra_args=None)
        assert len(spread) == 8, name
        assert all(found == pytest.approx(level, rel=0.03) for found, level in spread), name
        spread.clear()


def test_tcd_without_noise_is_ddim_and_with_all_of_it_starts_anew() -> None:
    sigmas, x = plan(STUDENTS["tcd"]).sigmas(sd_sigmas()), start(torch.tensor(14.6))
    assert torch.equal(sample_tcd(few_step.gaussian, x, sigmas, eta=0.0), sample_ddim(few_step.gaussian, x, sigmas))
    assert not torch.equal(sample_tcd(few_step.gaussian, x, sigmas, eta=1.0), sample_ddim(few_step.gaussian, x, sigmas))


@pytest.mark.parametrize("student", [STUDENTS["tcd"], STUDENTS["hyper_sd_8"], custom("500 1", "lcm")], ids=lambda row: row.solver)
def test_the_end_keeps_what_the_mask_keeps(student: Student) -> None:
    """Neither the noise left at timestep 0, nor what LCM's boundary condition leaves of it at a low one, may stay in the part
    of a picture that is not painted."""
    sigmas, kept = plan(student).sigmas(sd_sigmas()), torch.full((1, 4, 64, 64), 0.3)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1

    def model(x: Tensor, sigma: Tensor, denoise_mask: Tensor) -> Tensor:
        return few_step.gaussian(x, sigma) * denoise_mask + kept * (1 - denoise_mask)

    solver = SAMPLERS[student.solver]
    painted = solver(model, start(sigmas[0]), sigmas, {"denoise_mask": mask})
    assert torch.equal(painted[..., :32], kept[..., :32])
    assert painted[..., 32:].std() > 0.1
    part = solver(model, start(sigmas[0]), sigmas[:-1], {"denoise_mask": mask})
    assert (part[..., :32] - kept[..., :32]).std() > sigmas[-2] / 2  # a part of a run is still noisy


# ---- noise of the steps


def test_noise_of_a_picture_does_not_depend_on_its_batch() -> None:
    alone, batch = step_noise(NOISE[:1], 7), step_noise(NOISE, 7)
    second = step_noise(NOISE[:1], 7, [1])
    for _ in range(3):
        one, two, other = alone(1.0, 0.5), batch(1.0, 0.5), second(1.0, 0.5)
        assert torch.equal(one[0], two[0])
        assert torch.equal(other[0], two[1])
        assert not torch.equal(one, other)


def test_noise_differs_by_step_and_seed_and_from_the_start_noise() -> None:
    source = step_noise(NOISE, 7)
    start_noise = torch.randn(NOISE.shape, generator=random(7))
    drawn = [source(1, 0), source(1, 0), step_noise(NOISE, 8)(1, 0), start_noise]
    for index, one in enumerate(drawn):
        for other in drawn[index + 1 :]:
            assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.2


def test_a_seeded_run_repeats_and_leaves_the_global_generator_alone() -> None:
    sigmas, state = plan(STUDENTS["lcm_lora"]).sigmas(sd_sigmas()), torch.get_rng_state()
    runs = [sample_lcm(lambda x, s, seed: few_step.gaussian(x, s), NOISE * 14, sigmas, {"seed": seed}) for seed in (3, 3, 4)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(state, torch.get_rng_state())


# ---- bad input and stopping


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("sigmas", [[1.0, 2.0, 0.0], [1.0, 1.0], [float("nan"), 0.0], [2.0, -1.0], [float("inf"), 1.0]])
def test_sigmas_that_do_not_fall(name: str, sigmas: list[float]) -> None:
    with pytest.raises(InvalidInput, match="fall"):
        SAMPLERS[name](few_step.gaussian, NOISE, torch.tensor(sigmas))


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_step_changes_nothing(name: str) -> None:
    for sigmas in ([], [1.0]):
        assert torch.equal(SAMPLERS[name](few_step.gaussian, NOISE, torch.tensor(sigmas)), NOISE)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("at", [0, 3, 7])
def test_the_callback_stops_a_run_at_any_step(name: str, at: int) -> None:
    seen: list[int] = []

    def stop(state: dict) -> None:
        seen.append(state["i"])
        if state["i"] == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SAMPLERS[name](few_step.gaussian, NOISE * 14, plan(STUDENTS["tcd"]).sigmas(sd_sigmas()), callback=stop)
    assert seen == list(range(at + 1))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("eta", [1.5, -0.1, float("nan")])
def test_eta_out_of_range(name: str, eta: float) -> None:
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        SAMPLERS[name](few_step.gaussian, NOISE, torch.tensor([1.0, 0.0]), eta=eta)

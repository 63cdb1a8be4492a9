"""The table of students against diffusers' timesteps, and the choice of steps, guidance and warnings of a run."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from hotpath.engine.errors import InvalidInput
from hotpath.engine.guidance import bias_shift, scale_embedding
from hotpath.engine.schedules import RULES, SOLVERS, consistency, plan, sd_sigmas, suffix, trailing
from hotpath.engine.students import SAFEST, STUDENTS, custom, student
from hotpath.tests.engine import few_step
from hotpath.tests.testing import random


@pytest.mark.parametrize("name", STUDENTS)
def test_timesteps_are_those_of_diffusers_for_every_step_count(name: str) -> None:
    row = STUDENTS[name]
    for count in row.steps:
        wanted = few_step.scheduler(row, count).timesteps
        assert list(row.timesteps(count)) == wanted.tolist()
    assert row.timesteps() == row.timesteps(row.default_steps)


def test_rules_are_those_of_diffusers_for_any_count() -> None:
    for count in range(1, 51):
        assert list(consistency(count)) == few_step.scheduler(STUDENTS["tcd"], count).timesteps.tolist()
        wanted = few_step.scheduler(STUDENTS["hyper_sd_8"], count).timesteps.tolist()
        assert list(trailing(count)) == wanted[:count], count  # for some counts numpy's arange gives one too many


def test_grids_as_published() -> None:
    assert trailing(8) == (999, 874, 749, 624, 499, 374, 249, 124)
    assert consistency(8) == (999, 879, 759, 639, 499, 379, 259, 139)
    assert STUDENTS["dmd2_4"].timesteps() == (999, 749, 499, 249)
    assert STUDENTS["dmd2_1"].timesteps() == (399,)
    assert STUDENTS["hyper_sdxl_unet_1"].timesteps() == (800,)


def test_sigmas_of_sd() -> None:
    table = sd_sigmas()
    torch.testing.assert_close(table, few_step.table_of(few_step.scheduler(STUDENTS["tcd"])), rtol=2e-5, atol=0)
    known = torch.tensor([14.6146, 7.2974, 4.0817, 2.4925, 1.6129, 1.0690, 0.6932, 0.3977, 0.0])
    torch.testing.assert_close(plan(STUDENTS["snapfusion_8"]).sigmas(table), known, rtol=0, atol=6e-5)
    torch.testing.assert_close(plan(STUDENTS["hyper_sd_8"]).sigmas(table)[:-1], known[:-1], rtol=0, atol=6e-5)
    assert table[0] == pytest.approx(0.02917, abs=1e-5)


@pytest.mark.parametrize("name", [row.id for row in STUDENTS.values() if row.solver in ("ddim", "tcd")])
def test_a_student_ends_where_its_authors_scheduler_does(name: str) -> None:
    made, table = few_step.scheduler(STUDENTS[name]), sd_sigmas()
    assert made.config.clip_sample is False
    last = ((1 - made.final_alpha_cumprod) / made.final_alpha_cumprod).sqrt()
    torch.testing.assert_close(plan(STUDENTS[name]).sigmas(table)[-1], last, rtol=2e-5, atol=0)


@pytest.mark.parametrize("count", [667, 700, 1000])
def test_a_grid_that_would_end_twice_is_refused(count: int) -> None:
    with pytest.raises(InvalidInput, match=rf"Expected fewer steps for .*, got {count}: its grid would end at timestep 0 twice"):
        plan(STUDENTS["hyper_sd_8"], count)
    assert len(plan(STUDENTS["hyper_sd_8"], 666).sigmas(sd_sigmas()).diff().sign().unique()) == 1


def test_an_lcm_unet_may_be_of_either_family() -> None:
    assert dict(STUDENTS["lcm_unet"].resolution).keys() == {"sd15", "sdxl"}


def test_the_table_is_whole() -> None:
    assert {"lcm_lora", "lcm_unet", "tcd", "snapfusion_8", "sd_turbo", "sdxl_turbo", "pcm_lcmlike", "hyper_sd_8_cfg"} <= set(
        STUDENTS
    )
    for name, row in STUDENTS.items():
        assert row.id == name
        assert row.solver in SOLVERS
        assert row.default_steps in row.steps
        assert row.guidance.low <= row.guidance.default <= row.guidance.high
        assert row.guidance.kind != "off" or row.guidance.default == 1
        assert row.source
        assert row.licence
        assert isinstance(row.rule, tuple) or row.rule in RULES
    assert set(SAFEST) <= set(STUDENTS)
    with pytest.raises(FrozenInstanceError):
        STUDENTS["tcd"].eta = 0.5


# ---- a run


@pytest.mark.parametrize(
    ("denoise", "steps"), [(1, 8), (0.99, 8), (0.75, 6), (0.5, 4), (0.45, 4), (0.43, 3), (0.1, 1), (0.01, 1), (0, 0)]
)
def test_denoise_takes_the_last_steps_of_the_grid(denoise: float, steps: int) -> None:
    run = plan(STUDENTS["hyper_sd_8"], denoise=denoise)
    assert run.timesteps == trailing(8)[8 - steps :]
    assert f"{steps} of 8 steps" in str(run)
    assert len(run.sigmas(sd_sigmas())) == (steps + 1 if steps else 0)


@pytest.mark.parametrize(
    ("name", "denoise", "words"),
    [
        ("hyper_sd_8", 0.97, "A denoise of 0.97 runs all 8 steps, as 1 does: 0.875 runs 7;"),
        ("hyper_sd_2", 0.8, "0.5 runs 1;"),
        ("dmd2_1", 0.1, "runs the one step, as 1 does;"),
        ("hyper_sd_8", 0.875, None),
        ("dmd2_1", 1.0, None),
        ("dmd2_1", 0.0, None),
    ],
)
def test_a_denoise_that_runs_all_steps_is_said(name: str, denoise: float, words: str | None) -> None:
    warnings = plan(STUDENTS[name], denoise=denoise).warnings
    assert len(warnings) == bool(words)
    assert not words or words in warnings[0]


@pytest.mark.parametrize("denoise", [-0.1, 1.1, float("nan")])
def test_denoise_out_of_range(denoise: float) -> None:
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        suffix((3, 2, 1), denoise)


def test_guidance_is_the_students_own_unless_said() -> None:
    assert plan(STUDENTS["hyper_sd_8"]).guidance == 1
    assert plan(STUDENTS["hyper_sd_8_cfg"]).guidance == 5
    assert plan(STUDENTS["pcm_normalcfg_8"]).guidance == 7.5
    assert not any(plan(row).warnings for row in STUDENTS.values())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("hyper_sd_8", {"guidance": 7.0}, "without guidance, got 7"),
        ("hyper_sd_8_cfg", {"guidance": 1.0}, "5 to 8, got 1"),
        ("lcm_lora", {"guidance": 4.0}, "1 to 2, got 4"),
        ("hyper_sd_8", {"steps": 20}, "distilled for 8 steps, got 20"),
        ("sd_turbo", {"steps": 8}, "1, 2, 3, 4 steps, got 8"),
    ],
)
def test_runs_outside_what_the_student_learnt_are_said(name: str, options: dict, words: str) -> None:
    (sentence,) = plan(STUDENTS[name], **options).warnings
    assert words in sentence


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dmd2_4", {"steps": 8}),
        ("tcd", {"steps": 51}),
        ("tcd", {"steps": -1}),
        ("tcd", {"guidance": -2.0}),
        ("tcd", {"guidance": float("nan")}),
    ],
)
def test_runs_that_cannot_be(name: str, options: dict) -> None:
    with pytest.raises(InvalidInput):
        plan(STUDENTS[name], **options)


def test_what_is_not_verified_is_said() -> None:
    assert "Not verified" in str(plan(STUDENTS["sd_turbo"]))
    assert "from memory" in STUDENTS["sdxl_turbo"].unverified
    assert "inferred" in STUDENTS["snapfusion_8"].unverified


def test_a_students_of_the_users_own() -> None:
    own = custom("999, 666 333", "lcm", "v")
    assert own.timesteps() == (999, 666, 333)
    assert (own.solver, own.prediction, own.first_timestep) == ("lcm", "v", 999)
    assert not plan(own, guidance=25.0).warnings


@pytest.mark.parametrize("text", ["", "1000 5", "5 5", "1 2", "9 0", "nine", "3.5", "-5"])
def test_lists_that_are_no_timesteps(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"imesteps"):
        custom(text)


def test_a_student_that_is_none() -> None:
    with pytest.raises(InvalidInput, match="hyper_sd_8"):
        student("euler_a")


# ---- embedded guidance


def test_the_scale_is_embedded_as_diffusers_does() -> None:
    from diffusers import LatentConsistencyModelPipeline as Pipeline

    for scale in (1.0, 4.0, 8.5):
        wanted = Pipeline.get_guidance_scale_embedding(None, torch.tensor([scale - 1]), embedding_dim=256)[0]
        torch.testing.assert_close(scale_embedding(scale, 256), wanted, rtol=0, atol=1e-4)  # sine of angles up to 7500


def test_a_shift_of_the_bias_is_the_guidance_input() -> None:
    from diffusers.models.embeddings import TimestepEmbedding

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = TimestepEmbedding(16, 64, cond_proj_dim=32).eval()
    time = torch.randn(3, 16, generator=random(0))
    with torch.no_grad():
        wanted = layer(time, scale_embedding(6.0, 32).expand(3, -1))
        without = layer(time)
        layer.linear_1.bias += bias_shift(layer.cond_proj.weight, layer.linear_1.weight, 6.0)
        torch.testing.assert_close(layer(time), wanted, rtol=1e-5, atol=1e-5)
    assert (without - wanted).abs().max() > 1e-3

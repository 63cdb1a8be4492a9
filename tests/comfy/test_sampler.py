"""The sampler nodes inside ComfyUI, on a small network shaped like SD 1.5 with random weights, beside diffusers' own loop."""

from __future__ import annotations

import pytest
from hotpath.engine.students import STUDENTS
from hotpath.tests.comfy.outside import good, run_inside, sentence
from hotpath.tests.testing import ROOT


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    folder = tmp_path_factory.mktemp("comfy")
    for name in ("loras", "diffusion_models"):
        (folder / "models" / name).mkdir(parents=True)
    return run_inside("sampler_program", folder, ROOT)[0]


# ---- against diffusers


@pytest.mark.parametrize("name", STUDENTS)
def test_the_sampler_gives_what_diffusers_gives(results: dict[str, list], name: str) -> None:
    error, spread = good(results, f"row {name}")
    assert spread > 0.1
    assert error < 2e-5  # guidance of 7.5 multiplies what float32 rounds


ON_GRID = [f"{part} grid {solver}" for part in ("on the", "whole") for solver in ("ddim", "lcm", "tcd", "euler")]


@pytest.mark.parametrize("label", ["guided", *ON_GRID])
def test_guidance_and_pictures_go_in_as_in_diffusers(results: dict[str, list], label: str) -> None:
    assert good(results, label)[0] < 2e-5


def test_custom_sampling_is_the_same_run(results: dict[str, list]) -> None:
    assert good(results, "custom sampling") == [True, True, True]


def test_the_network_is_asked_at_the_timesteps_of_the_student(results: dict[str, list]) -> None:
    assert good(results, "timesteps") == [[999, 749, 499, 249], [499, 379, 259, 139], [900, 500, 100]]


def test_guidance_off_is_one_pass_a_step(results: dict[str, list]) -> None:
    assert good(results, "passes") == [8, 16]


# ---- what the rest of a graph does


def test_pictures_of_a_batch_are_those_they_are_alone(results: dict[str, list]) -> None:
    assert good(results, "batch") < 1e-5


def test_a_mask_keeps_the_rest_of_the_picture(results: dict[str, list]) -> None:
    for student, (kept, painted) in good(results, "mask").items():
        assert kept < 1e-6, student
        assert painted > 0.05, student


def test_controlnet_takes_part(results: dict[str, list]) -> None:
    changed, repeated = good(results, "controlnet")
    assert changed > 1e-3
    assert repeated == 0


def test_no_step_returns_the_latent(results: dict[str, list]) -> None:
    assert good(results, "denoise 0") is True


def test_what_came_in_is_left_alone(results: dict[str, list]) -> None:
    assert good(results, "left alone") == [True, True, True, True]


# ---- student files


@pytest.mark.parametrize("kind", ["kohya", "peft"])
def test_a_lora_swapped_between_two_runs_changes_the_picture(results: dict[str, list], kind: str) -> None:
    first_to_second, second_to_first, back_to_base = good(results, f"swap {kind}")
    assert first_to_second > 1e-3
    assert second_to_first == 0
    assert back_to_base == 0


def test_a_lora_may_be_spelled_in_any_of_three_ways(results: dict[str, list]) -> None:
    assert good(results, "spellings") == [0, 0]


def test_a_lora_is_added_to_the_weights(results: dict[str, list]) -> None:
    assert good(results, "merged by hand") < 1e-5


def test_auto_finds_the_student_that_rides_with_the_model(results: dict[str, list]) -> None:
    report, licence = good(results, "auto")
    assert "Hyper-SD 8-step CFG (hyper_sd_8_cfg)" in report
    assert "its name says so" in report
    assert "guidance 5" in report
    assert "Licence: openrail++" in licence


@pytest.mark.parametrize("kind", ["diffusers", "comfyui", "checkpoint"])
def test_a_unet_file_takes_the_place_of_the_weights(results: dict[str, list], kind: str) -> None:
    assert good(results, f"unet {kind}") < 1e-5


def test_embedded_guidance_is_what_diffusers_feeds_in(results: dict[str, list]) -> None:
    own, other, changed = good(results, "embedded")
    assert own < 1e-5
    assert other < 1e-5
    assert changed > 1e-3


def test_v_and_zero_snr_are_set_on_the_clone(results: dict[str, list]) -> None:
    assert good(results, "prediction") == ["v", "eps", True, False]


def test_the_evidence_comes_in_order(results: dict[str, list]) -> None:
    metadata, hashed, named = good(results, "evidence")
    assert "metadata names it" in metadata
    assert "SHA-256" in hashed
    assert "its name says so" in named


def test_only_a_file_of_a_known_size_is_hashed_and_cancel_stops_it(results: dict[str, list]) -> None:
    assert results["hash cancelled"][0] == "InterruptProcessingException"
    assert "choose the student by hand" in sentence(results, "hash of another size")


def test_a_student_below_another_is_said(results: dict[str, list]) -> None:
    lora, unet, alone = good(results, "stacked")
    assert "It already carried hyper_sd_8_cfg (its name says so" in lora
    assert "stays under this one" in lora
    assert "stays on top of this UNet" in unet
    assert "already carried" not in alone


def test_an_input_for_guidance_is_found_below_a_lora(results: dict[str, list]) -> None:
    assert good(results, "embedded below") > 1e-3


def test_a_student_chosen_by_hand_is_compared_with_the_file(results: dict[str, list]) -> None:
    other, same, custom = good(results, "by hand")
    assert "chosen by hand, but the file speaks of hyper_sd_8_cfg: its name says so" in other
    assert "chosen by hand\n" in same
    assert "chosen by hand\n" in custom


# ---- warnings


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("warn guidance", "without guidance, got 7"),
        ("warn steps", "distilled for 8 steps, got 5"),
        ("warn other student", "carries hyper_sd_8_cfg"),
        ("warn prediction", "predicts v, the model is set to eps"),
        ("warn x0", "predicts eps, the model is set to x0"),
        ("warn family", "is for sdxl, the model is sd15"),
        ("warn size", "distilled at 512 px"),
        ("warn embedded", "no effect"),
    ],
)
def test_warnings(results: dict[str, list], label: str, words: str) -> None:
    assert words in good(results, label)


def test_a_base_that_predicts_v_may_have_a_student_for_eps(results: dict[str, list]) -> None:
    assert "the model is set to" not in good(results, "v base")


# ---- bad input


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("flow", "flow and DiT models"),
        ("dit", "flow and DiT models"),
        ("lcm sampling", "take the node ModelSamplingDiscrete out"),
        ("channels", "Expected latents of 4 channels, got 16"),
        ("nan", "Expected finite latents"),
        ("video", "video or audio"),
        ("no student", "put Load Student before"),
        ("fixed steps", "exactly 4 steps"),
        ("no list", "Expected timesteps"),
        ("list for another", "choose the student custom"),
        ("unknown file", "hyper_sd_8 (Hyper-SD 8-step) or lcm_lora (LCM-LoRA)"),
        ("no file", "Expected a file to recognise"),
        ("unet strength", "strength of 1"),
        ("strength of NaN", "finite number"),
        ("unet on unet", "carries the whole UNet comfyui.safetensors already (student tcd): take the other Load Student out"),
        ("unet on unet and lora", "carries the whole UNet comfyui.safetensors already (student hyper_sd_8_cfg)"),
    ],
)
def test_input_that_cannot_be_used(results: dict[str, list], label: str, words: str) -> None:
    assert words in sentence(results, label)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("lora of nothing", "8 of 8 match nothing"),
        ("lora in part", "2 of 10 match nothing (lora_unet_elsewhere"),
        ("lora half", "incomplete"),
        ("lora other half", "1 of 9 match nothing"),
        ("lora alpha alone", "1 of 9 match nothing"),
        ("lora shape", "1 of 4 layers"),
        ("lora flat", "1 of 4 layers"),
        ("lora point", "1 of 4 layers"),
        ("lora empty", "1 of 4 layers"),
        ("lora two alphas", "is damaged (a Tensor with 2 elements"),
        ("unet guidance shape", "to have 32 rows, got [7, 48]"),
        ("unet guidance flat", "to have 32 rows, got [7]"),
        ("lora loha", "holds loha adapters, only plain LoRA is known here: load it by ComfyUI's Load LoRA"),
        ("lora lokr", "holds lokr adapters"),
        ("lora tucker", "holds Tucker LoRA adapters"),
        ("lora nan", "not finite"),
        ("lora text", "text encoder"),
        ("cut off", "cannot be read"),
        ("unet in part", "1 are not there"),
        ("unet too much", "1 match nothing"),
        ("unet shape", "another shape"),
    ],
)
def test_files_that_cannot_be_used(results: dict[str, list], label: str, words: str) -> None:
    assert words in sentence(results, label, "WeightsInvalid")


def test_a_file_that_is_gone(results: dict[str, list]) -> None:
    assert "gone.safetensors" in sentence(results, "gone", "WeightsMissing")


@pytest.mark.parametrize("at", [1, 4, 8])
def test_cancel_at_any_step(results: dict[str, list], at: int) -> None:
    assert results[f"cancel at {at}"][0] == "InterruptProcessingException"
    assert good(results, f"steps until cancelled at {at}") == at


def test_previews_count_the_steps(results: dict[str, list]) -> None:
    assert good(results, "progress") == [[1, 4], [2, 4], [3, 4], [4, 4]]

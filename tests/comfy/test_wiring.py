"""Fused U-Nets inside ComfyUI, on tiny models of SD1.5's and SDXL's shape, equal those without; and whatever else acts on them still does."""

from __future__ import annotations

import pytest
from hotpath.tests.comfy.outside import run_inside

CLOSE = 3e-5  # distance of latents in float32; rounding alone gives 6e-6 after two guided steps
NEAR = 0.2  # in bfloat16 on so small a network, after two guided steps


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return run_inside("wiring_cases", tmp_path_factory.mktemp("comfy"))[0]


def good(results: dict, name: str) -> dict:
    assert not isinstance(results[name], str), results[name]
    return results[name]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_latents_are_those_of_the_model(results: dict, family: str) -> None:
    found = good(results, "equal")
    for dtype, allowed in {"torch.float32": CLOSE, "torch.bfloat16": NEAR}.items():
        for name, off in found[f"{family} {dtype}"].items():
            assert 0 < off < allowed, (name, dtype)
        assert "declined 0" in found[f"{family} {dtype} said"]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_model_is_left_as_it_was(results: dict, family: str) -> None:
    found = good(results, "equal")
    assert found[f"{family} left"] == 0
    assert found[f"{family} same"], "bit for bit"
    assert found[f"{family} weights"]


def test_loras_before_and_after(results: dict) -> None:
    for name, found in good(results, "loras").items():
        allowed = CLOSE if "float32" in name else NEAR
        assert found["changes"] > 100 * CLOSE, name
        for how in ("before", "after", "without"):
            assert found[how] < allowed, (name, how)
        assert found["agree"], "what was kept before the LoRA came is not used: " + name


def test_weights_written_between_the_halves_of_guidance(results: dict) -> None:
    found = good(results, "hooks")
    assert found["changes"] > 0.2
    for name in ("hooked", "again", "restored"):
        assert found[name] < CLOSE, name


def test_prompts_are_told_by_what_is_in_them(results: dict) -> None:
    found = good(results, "contexts")
    assert min(found.pop("changes"), found.pop("written changes")) > 0.2
    for name, off in found.items():
        assert off < CLOSE, name


def test_each_prompt_and_time_is_projected_once(results: dict) -> None:
    found = good(results, "kept")
    (first, times), *others = found["seen"]
    assert first == 2 * found["layers"]
    assert others == [[first, times], [first, 2 * times], [first, 2 * times]]


def test_control_works(results: dict) -> None:
    found = good(results, "control")
    assert found["off"] < CLOSE
    assert found["changes"] > 0.02


def test_patches_of_other_nodes_work(results: dict) -> None:
    found = good(results, "patches")
    assert found.pop("plain again")
    for name, one in found.items():
        assert one["changes"] > 100 * CLOSE, name
        assert one["before"] < CLOSE, name
        assert one["after"] < CLOSE, name
    assert "declined 0" in found["after a block"]["said"], "what acts around blocks costs nothing"
    assert "(another node patches this transformer block)" in found["attn1"]["said"]
    assert "(weights are changed on each call" in found["weights on each call"]["said"]
    assert "(another node has replaced a layer" in found["keys"]["said"]
    assert "declined 2 (another node patches" in found["attn2 of one block"]["said"], "only that block, in two steps"


def test_hooks_on_layers_that_are_passed_over_work(results: dict) -> None:
    for name, found in good(results, "hooked").items():
        assert found["changes"] > 50 * CLOSE, name
        assert found["off"] < CLOSE, name
        assert ("(another node hooks into a layer that is fused)" in found["said"]) == (name != "values"), name


def test_a_network_that_only_looks_alike_is_left_alone(results: dict) -> None:
    found = good(results, "wrong_parts")
    assert found["off"] < CLOSE
    assert "declined 2 (fused, it is" in found["said"]
    assert len(found["warned"]) >= 1


def test_recorded_calls_leave_nobody_out(results: dict) -> None:
    found = good(results, "replayed")
    for name in ("off", "lora", "without"):
        assert found[name] < CLOSE, name
    assert found["counts"] == {"taken": 2}, "one call a step"
    assert found["recorded"] == found["recorded for another prompt and noise"] == 1
    for name in ("patch", "inner wrapper", "keys"):
        assert found[name]["off"] < CLOSE, name
        assert found[name]["changes"] > 0.01, name
        assert found[name]["taken"] == 0, name
    assert found["held"][0] > 0
    assert found["held"][1] == 0


def test_weights_are_laid_out_only_while_they_are_ours(results: dict) -> None:
    found = good(results, "channels_last")
    for name in ("off", "lora", "without"):
        assert found[name] < CLOSE, name
    assert found["before"]
    assert not found["during"]
    assert found["seen"]
    assert found["after"]
    assert found["unloaded"]
    assert found["same"], "bit for bit"


def test_a_copy_goes_when_it_is_unloaded(results: dict) -> None:
    assert good(results, "memory") == {"held": True, "gone": True}


def test_a_bare_network(results: dict) -> None:
    found = good(results, "bare_network")
    for keep in (True, False):
        assert 0 < found[f"off {keep}"] < CLOSE
        assert found[f"counts {keep}"] == {"taken": found["parts"]}
    assert found["after an error"] == 0
    assert found["undone"], "bit for bit"

"""The Accelerate node inside ComfyUI, on tiny models of SD1.5's shape."""

from __future__ import annotations

import pytest
from hotpath.tests.comfy.outside import run_inside

CLOSE = 0.1  # distance of latents in bfloat16 from those in float32: 0.05 on so small a network; patches change far more


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    results, log = run_inside("accelerate_program", tmp_path_factory.mktemp("comfy"))
    return results | {"log": log}


def good(results: dict, name: str) -> dict:
    assert not isinstance(results[name], str), results[name]
    return results[name]


def test_latents_are_those_of_the_model(results: dict) -> None:
    found = good(results, "same_latents")
    for name in ("off", "batch", "guided"):
        assert 0 < found[name] < CLOSE, name
    assert found["again"]
    assert found["vae"]


def test_the_copy_is_in_16_bits_arranged_and_made_once(results: dict) -> None:
    found = good(results, "same_latents")
    assert found["dtypes"] == ["torch.bfloat16"]
    assert found["kernel"] == 2, "its numbers lie in the arranged weight alone"
    assert found["copied again"] == 0


def test_the_source_is_untouched_bit_for_bit(results: dict) -> None:
    found = good(results, "same_latents")
    assert found["source"]
    assert found["source runs"]
    assert not found["source options"]


def test_loras_before_and_after(results: dict) -> None:
    found = good(results, "loras")
    assert found["changes"] > 0.2
    for name in ("before", "after", "without again", "other"):
        assert found[name] < CLOSE, name
    assert found["shared"]
    before, after = found["copied by a switch"]
    assert after - before == 1, "one weight has changed, so one is copied"
    assert found["source"]


def test_weights_written_in_place_are_noticed(results: dict) -> None:
    for name, off in good(results, "written_in_place").items():
        assert off < CLOSE, name


def test_hooks_change_the_picture_and_are_taken_back(results: dict) -> None:
    found = good(results, "hooks")
    assert found["changes"] > 0.2
    assert found["hooked"] < CLOSE
    assert found["one of two"] < CLOSE
    assert found["hooked first"] < CLOSE
    assert found["restored after that"] < CLOSE
    assert found["restored"]


def test_other_wrappers_patches_and_control_work(results: dict) -> None:
    found = good(results, "wrappers_patches_and_control")
    assert found["patched"] < CLOSE < found["changes"]
    assert found["control"] < CLOSE < found["control changes"]
    assert found["seen"] == ["torch.bfloat16", "torch.float32"]


def test_an_earlier_override_stays_in_charge(results: dict) -> None:
    found = good(results, "earlier_override")
    assert found["off"] < CLOSE < found["changes"]
    assert found["theirs"] >= 32
    assert found["ours"] >= 32
    assert found["names"], "it sees the name of the attention it is given"
    assert "stays in charge" in found["report"]
    assert found["twice"]
    assert found["theirs once"] == 32


def test_clones_side_by_side(results: dict) -> None:
    assert good(results, "side_by_side") == [True, True, True]


def test_memory_is_taken_late_and_given_back(results: dict) -> None:
    assert good(results, "memory") == {"lazy": True, "held": True, "released": True, "again": True}


def test_declines_say_why(results: dict) -> None:
    found = good(results, "declines")
    assert "float32 because this processor has none" in found["fp32"]
    assert found["fp32"].count("declined") == 2
    assert found["exact"] < 1e-4
    assert found["vae kept"]
    assert "modules of its own" in found["injected"]
    assert found["late"] < 1e-4, "modules put in after the node keep it from the copy at the call"
    assert "this is Flux" in found["flux"]
    assert "knows processors and NVIDIA GPUs" in found["elsewhere"]
    assert found["elsewhere same"]
    assert "this model runs on 'rocm'" in found["amd"]
    assert found["their forward"] < 1e-4, "a function in place of the network's own keeps it from the copy"
    assert "our kernel" in found["cuda"]
    assert "run fused; channels last." in found["cuda"]
    assert "GiB are free" in found["memory"]


def test_a_wrong_copy_is_not_used(results: dict) -> None:
    found = good(results, "a_twin_that_is_wrong")
    assert found["off"] < 1e-3
    assert found["failing"] < 1e-3
    assert "away from the path it replaces, over 0.05" in results["log"]
    assert "it fails" in results["log"]


def test_a_cancel_passes(results: dict) -> None:
    assert results["interrupted"] == "interrupted"


def test_vae(results: dict) -> None:
    found = good(results, "vae")
    for name in ("psnr", "tiled", "taesd", "weights followed", "after unloading"):
        assert found[name] > 35, name
    assert found["differs"]
    assert found["released"]
    assert found["encode"]
    assert found["source"]
    assert found["dtype"] == "torch.float32"
    assert found["blocked"] >= 1
    assert "encoding stays" in found["report"]
    kept, says = found["video"]
    assert kept
    assert "no VAE of ComfyUI for pictures" in says

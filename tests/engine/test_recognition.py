"""A weight file is told by metadata, then keys, then SHA-256, then name, and the evidence is said."""

from __future__ import annotations

import pytest
from hotpath.engine.recognition import EMBEDDED_KEY, by_name, recognise, unknown
from hotpath.engine.weights import manifest

KNOWN = [entry for entry in manifest.entries() if entry.student and entry.hash]


def never() -> manifest.Entry:
    raise AssertionError("the file was hashed although metadata or keys had told the student")


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("Hyper-SD15-8steps-CFG-lora.safetensors", "hyper_sd_8_cfg"),
        ("Hyper-SD15-8steps-lora.safetensors", "hyper_sd_8"),
        ("Hyper-SDXL-2steps-lora.safetensors", "hyper_sd_2"),
        ("Hyper-SDXL-1step-Unet.safetensors", "hyper_sdxl_unet_1"),
        ("Hyper-SDXL-1step-lora.safetensors", "hyper_sd_1"),
        ("sdxl_lightning_8step_lora.safetensors", "sdxl_lightning_8"),
        ("sub/sdxl_lightning_4step_unet.safetensors", "sdxl_lightning_4"),
        ("sdxl_lightning_1step_unet_x0.safetensors", "sdxl_lightning_x0_1"),
        ("sdxl_lightning_4step_unet_x0.safetensors", None),
        ("sdxl_lightning_1step_x0.safetensors", "sdxl_lightning_x0_1"),
        ("lcm-lora-sdv1-5/pytorch_lora_weights.safetensors", "lcm_lora"),
        ("LCM_LoRA_SDXL.safetensors", "lcm_lora"),
        ("TCD-SD15-LoRA/pytorch_lora_weights.safetensors", "tcd"),
        ("pcm_sd15_smallcfg_8step_converted.safetensors", "pcm_smallcfg_8"),
        ("pcm_sdxl_normalcfg_16step_converted.safetensors", "pcm_normalcfg_16"),
        ("pcm_sd15_lcmlike_lora_converted.safetensors", "pcm_lcmlike"),
        ("dmd2_sdxl_4step_lora_fp16.safetensors", "dmd2_4"),
        ("dmd2_sdxl_1step_unet.safetensors", "dmd2_1"),
        ("sd_turbo.safetensors", "sd_turbo"),
        ("sd_xl_turbo_1.0_fp16.safetensors", "sdxl_turbo"),
        ("Hyper-SD15-12steps-CFG-lora.safetensors", None),
        ("Hyper-SDXL-3steps-lora.safetensors", None),
        ("add_detail.safetensors", None),
        ("pytorch_lora_weights.safetensors", None),
    ],
)
def test_names(name: str, student: str | None) -> None:
    assert by_name(name) == student


def test_the_order_of_evidence() -> None:
    known, name = next(entry for entry in KNOWN if entry.student == "tcd"), "dmd2_sdxl_4step_lora.safetensors"
    own = recognise(name, {"hotpath.student": "snapfusion_8"}, [EMBEDDED_KEY], never)
    titled = recognise(name, {"modelspec.title": "LCM LoRA for SDXL"}, [EMBEDDED_KEY], never)
    keyed = recognise(name, {"format": "pt"}, [EMBEDDED_KEY], never)
    hashed = recognise(name, {}, ["a"], lambda: known)
    named = recognise(name, {"hotpath.student": "no such row"}, ["a"])
    found = [(one.student, words in one.evidence) for one, words in
             ((own, "metadata says"), (titled, "modelspec.title"), (keyed, "input for guidance"), (hashed, "SHA-256"), (named, "weakest"))]  # fmt: skip
    assert found == [("snapfusion_8", True), ("lcm_lora", True), ("lcm_unet", True), ("tcd", True), ("dmd2_4", True)]


def test_a_hash_that_no_owner_vouches_for_is_called_so() -> None:
    assert {entry.verified for entry in KNOWN} == {True, False}
    for entry in KNOWN:
        found = recognise("x", {}, [], lambda entry=entry: entry)
        assert found.student == entry.student
        assert entry.name in found.evidence
        assert ("re-uploads" in found.evidence) is not entry.verified


def test_unknown_files_get_the_two_safest_choices() -> None:
    assert recognise("add_detail.safetensors", {}, ["lora_unet_x"]) is None
    assert "hyper_sd_8 (" in unknown("add_detail.safetensors")
    assert "lcm_lora (" in unknown("add_detail.safetensors")

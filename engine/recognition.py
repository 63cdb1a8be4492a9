"""Which student a weight file is: by its metadata, its keys, its SHA-256, its name, in this order, and by which of them it was told."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .students import SAFEST, STUDENTS

# SHA-256 of public files; `owner` says whether the hash stands on the owner's page, or was only seen on re-uploads.
_HASHES = (
    # student, file, owner, sha256
    ("hyper_sd_8_cfg", "Hyper-SD15-8steps-CFG-lora", True, "f6123d5b950d5250ab6c33600e27f4dcf71b3099ebf888685e01e9e8117ce482"),
    ("hyper_sd_8", "Hyper-SD15-8steps-lora", False, "91fc3186236e956d64dbb4357f2e120c69b968b78af7d2db9884a5ca74d3cd13"),
    ("hyper_sd_1", "Hyper-SD15-1step-lora", False, "a04fd9a535c1e56d38f7590ee72a13fd5ca0409853b4fff021e5a9482cf1ca3b"),
    ("hyper_sd_8_cfg", "Hyper-SDXL-8steps-CFG-lora", True, "55b51334c85061afff5eff7c550b61963c8b8607a5868bbe4f26db49374719b1"),
    ("sdxl_lightning_8", "sdxl_lightning_8step_lora", True, "5aa30d94cdf7950a8b53a693682650ee061eddb128c5435a8f88defea73b2ac6"),
    ("sdxl_lightning_4", "sdxl_lightning_4step_lora", True, "bf56cf2657efb15e465d81402ed481d1e11c4677e4bcce1bc11fe71ad8506b79"),
    ("sdxl_lightning_8", "sdxl_lightning_8step_unet", True, "471d8260fda0b17b8906feb24573ce64933d4b6b99ba7a1fa43ca051b994e869"),
    ("lcm_lora", "lcm-lora-sdv1-5", True, "8f90d840e075ff588a58e22c6586e2ae9a6f7922996ee6649a7f01072333afe4"),
    ("lcm_lora", "lcm-lora-sdxl", False, "a764e6859b6e04047cd761c08ff0cee96413a8e004c9f07707530cd776b19141"),
    ("tcd", "TCD-SD15-LoRA", True, "eaecb24a1cda4411eab67275b1d991071216ac93693e8fa0c9226c9df0386232"),
    ("tcd", "TCD-SDXL-LoRA", True, "2c777bc60abf41d3eb0fe405d23d73c280a020eea5adf97a82a141592c33feba"),
    (
        "pcm_smallcfg_8",
        "pcm_sd15_smallcfg_8step_converted",
        True,
        "41a7f0b966d18f643d16c4401f0b5ef6b9ef7362c20e17128322f17874709107",
    ),
    (
        "pcm_normalcfg_4",
        "pcm_sd15_normalcfg_4step_converted",
        True,
        "fa6acb94f11dba3bf4120af5a12e3c88cd2b9572d43ec1a6fb04eede9f32829e",
    ),
    ("dmd2_4", "dmd2_sdxl_4step_lora_fp16", True, "b3d9173815a4b595991c3a7a0e0e63ad821080f314a0b2a3cc31ecd7fcf2cbb8"),
    ("dmd2_4", "dmd2_sdxl_4step_lora", True, "a374289e9446d7f14d2037c4b3770756b7b52c292142a691377c3c755010a1bb"),
    ("sd_turbo", "sd_turbo", True, "3f067a1b943cf162f2b8f8588f6cf5824bd5b4c7d1d88d87164b9ca123616549"),
    ("sdxl_turbo", "sd_xl_turbo_1.0_fp16", False, "e869ac7d6942cb327d68d5ed83a40447aadf20e0c3358d98b2cc9e270db0da26"),
)
KNOWN = {sha256: (student, file, owner) for student, file, owner, sha256 in _HASHES}

# Names as their authors and most re-uploads write them, in lower case with every separator as one space; the number is the step count.
_NAMES = (
    (r"hyper ?sdxl 1 ?steps? unet", "hyper_sdxl_unet_1"),
    (r"hyper ?sd(?:15|xl|1 5)? (\d+) ?steps? cfg", "hyper_sd_{}_cfg"),
    (r"hyper ?sd(?:15|xl|1 5)? (\d+) ?steps?", "hyper_sd_{}"),
    (r"lightning (\d+) ?steps? x0", "sdxl_lightning_x0_{}"),
    (r"lightning (\d+) ?steps?", "sdxl_lightning_{}"),
    (r"pcm(?: \w+)? smallcfg (\d+) ?steps?", "pcm_smallcfg_{}"),
    (r"pcm(?: \w+)? normalcfg (\d+) ?steps?", "pcm_normalcfg_{}"),
    (r"pcm(?: \w+)? lcm ?like", "pcm_lcmlike"),
    (r"dmd2(?: \w+)? (\d+) ?steps?", "dmd2_{}"),
    (r"\blcm lora\b", "lcm_lora"),
    (r"\btcd\b", "tcd"),
    (r"\bsd ?xl turbo\b", "sdxl_turbo"),
    (r"\bsd turbo\b", "sd_turbo"),
    (r"\bsnapfusion\b", "snapfusion_8"),
)
_TITLES = ("modelspec.title", "ss_output_name", "title", "name")
OWN_KEY = "hotpath.student"  # metadata of a student made for this pack: the id of its row
EMBEDDED_KEY = "time_embedding.cond_proj.weight"  # diffusers' UNet with a guidance input; of the students only LCM's has it


@dataclass(frozen=True)
class Recognised:
    """A student's id and how it was told, in a sentence."""

    student: str
    evidence: str


def by_name(text: str) -> str | None:
    """The student that a file name or title speaks of."""
    plain = re.sub(r"[^a-z0-9]+", " ", text.lower())
    for pattern, student in _NAMES:
        if found := re.search(pattern, plain):
            name = student.format(*found.groups())
            return name if name in STUDENTS else None
    return None


def recognise(name: str, metadata: Mapping[str, str], keys: Iterable[str], sha256: Callable[[], str]) -> Recognised | None:
    """The student of a file, or None. `sha256` is asked only where metadata and keys say nothing: it reads the whole file."""
    if metadata.get(OWN_KEY) in STUDENTS:
        return Recognised(metadata[OWN_KEY], f"its metadata says so ({OWN_KEY})")
    for field in _TITLES:
        if student := by_name(metadata.get(field, "")):
            return Recognised(student, f"its metadata names it ({field}: {metadata[field]})")
    if EMBEDDED_KEY in keys:
        return Recognised("lcm_unet", f"it has an input for guidance ({EMBEDDED_KEY})")
    if known := KNOWN.get(sha256()):
        student, file, owner = known
        doubt = "" if owner else ", a hash seen on re-uploads only, not on the owner's page"
        return Recognised(student, f"its SHA-256 is that of {file}{doubt}")
    if student := by_name(name):
        return Recognised(student, f"its name says so ({name}), which is the weakest evidence")
    return None


def unknown(name: str) -> str:
    """What to say where nothing tells the student."""
    safest = " or ".join(f"{row} ({STUDENTS[row].title})" for row in SAFEST)
    return (
        f"Expected a file of a known student, but the metadata, keys, SHA-256 and name of {name} tell none: "
        f"choose the student by hand; the safest to try are {safest}."
    )

"""Which student a weight file is: by its metadata, its keys, its SHA-256, its name, in this order, and by which of them it was told."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .students import SAFEST, STUDENTS
from .weights.manifest import Entry

# Names as their authors and most re-uploads write them, in lower case with every separator as one space; the number is the step count.
_NAMES = (
    (r"hyper ?sdxl 1 ?steps? unet", "hyper_sdxl_unet_1"),
    (r"hyper ?sd(?:15|xl|1 5)? (\d+) ?steps? cfg", "hyper_sd_{}_cfg"),
    (r"hyper ?sd(?:15|xl|1 5)? (\d+) ?steps?", "hyper_sd_{}"),
    (r"lightning (\d+) ?steps?(?: unet)? x0", "sdxl_lightning_x0_{}"),
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


def recognise(
    name: str, metadata: Mapping[str, str], keys: Iterable[str], entry: Callable[[], Entry | None] = lambda: None
) -> Recognised | None:
    """The student of a file, or None. `entry` gives the known file that has its SHA-256; it is asked only where metadata and
    keys say nothing, since it may have to read the whole file."""
    if metadata.get(OWN_KEY) in STUDENTS:
        return Recognised(metadata[OWN_KEY], f"its metadata says so ({OWN_KEY})")
    for field in _TITLES:
        if student := by_name(metadata.get(field, "")):
            return Recognised(student, f"its metadata names it ({field}: {metadata[field]})")
    if EMBEDDED_KEY in keys:
        return Recognised("lcm_unet", f"it has an input for guidance ({EMBEDDED_KEY})")
    if (known := entry()) and known.student:
        doubt = "" if known.verified else ", a hash seen on re-uploads only, not on the owner's page"
        return Recognised(known.student, f"its SHA-256 is that of {known.name}{doubt}")
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

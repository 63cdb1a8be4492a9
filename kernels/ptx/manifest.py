"""What PTX there is: for each kernel the constants and dtypes it was compiled for, what it was promised, and its hash.

manifest.json: {"schema": 1, "triton", "target", "sources": {room: sha256 of its fwd_triton.py}, "kernels": {key: {file, sha256, entry,
shared, warps, aligned}}}. Keys are those of `key_of`, so a launch finds its kernel or none.
"""

import functools
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..launch import Launch

FOLDER = Path(__file__).parent
POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}


def kinds(launch: Launch) -> list[str]:
    """The type of each argument in Triton's words; "none" for an absent tensor, which is no argument of the compiled kernel."""
    return [_kind(value) for value in launch.arguments]


def _kind(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Tensor):
        return POINTERS.get(value.dtype, f"*{value.dtype}")
    return "fp32" if isinstance(value, float) else "i32"


def key_of(room: str, launch: Launch) -> str:
    """What a kernel is compiled for, as text."""
    constants = ",".join(f"{name}={int(value)}" for name, value in sorted(launch.constants.items()))
    return f"{room}.{launch.kernel}({constants};{' '.join(kinds(launch))};{launch.warps}x{launch.stages})"


@functools.cache
def manifest() -> dict[str, Any]:
    return json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))


def find(room: str, launch: Launch) -> dict[str, Any] | None:
    """The entry for a launch, or None."""
    return manifest()["kernels"].get(key_of(room, launch))


def source_hash(room: str) -> str:
    """Hash of a room's kernels, whatever the line ends of the checkout."""
    text = (FOLDER.parent / room / "fwd_triton.py").read_text(encoding="utf-8")
    return sha256(text.encode()).hexdigest()


def text_of(entry: dict[str, Any]) -> bytes:
    """The PTX of an entry; raises `ValueError` where it is not what was shipped."""
    text = (FOLDER / entry["file"]).read_text(encoding="utf-8").encode()
    if sha256(text).hexdigest() != entry["sha256"]:
        raise ValueError(f"{entry['file']} is damaged: install hotpath again")
    return text


def broken_promise(entry: dict[str, Any], launch: Launch) -> str | None:
    """Which argument is not a multiple of 16 as the kernel was promised, or None."""
    for position in entry["aligned"]:
        value = launch.arguments[position]
        number = value.data_ptr() if isinstance(value, Tensor) else value
        if number % 16:
            return f"argument {position} of {launch.kernel} is not a multiple of 16"
    return None

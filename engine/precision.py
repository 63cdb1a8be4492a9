"""Which number format and memory layout a machine is fast at, with the reason in a sentence."""

from dataclasses import dataclass

import torch

from .errors import InvalidInput

CHOICES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Precision:
    dtype: torch.dtype
    reason: str


def _cpu_supports(*features: str) -> bool:
    """Whether torch finds one of these processor features; its probes are private and come and go."""
    return any(getattr(torch.cpu, f"_is_{feature}_supported", bool)() for feature in features)


def choose(device: torch.device, wanted: str = "auto") -> Precision:
    """The dtype to run convolutions in on `device`. An explicit choice is kept."""
    if wanted not in CHOICES:
        raise InvalidInput(f"Expected a precision out of {', '.join(CHOICES)}, got '{wanted}'.")
    if wanted != "auto":
        return Precision(getattr(torch, wanted), f"{wanted} as asked for")
    if device.type == "cpu":
        if _cpu_supports("amx_tile"):
            return Precision(torch.bfloat16, "bfloat16 because this processor has AMX tiles")
        if _cpu_supports("avx512_bf16"):
            return Precision(torch.bfloat16, "bfloat16 because this processor has AVX512-BF16")
        return Precision(torch.float32, "float32 because this processor has no fast 16-bit arithmetic")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 7:
            return Precision(torch.float16, f"float16 because this GPU (compute capability {major}.{minor}) has tensor cores")
        return Precision(torch.float32, f"float32 because this GPU (compute capability {major}.{minor}) has no tensor cores")
    return Precision(torch.float32, f"float32 because hotpath has not been measured on '{device.type}' devices")

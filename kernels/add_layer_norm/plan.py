"""How a residual and a layer norm are cut into blocks for a GPU, and what the kernel cannot take."""

from __future__ import annotations

import torch
from torch import Tensor

from ..launch import INT32, Launch, power_of_two, unfit
from ..tuning import tuned

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
WIDEST = 8192  # channels that one program holds


def why_not(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> str | None:
    """Why the kernel cannot take validated arguments, or None."""
    tensors = {"x": x, "residual": residual, "weight": weight, "bias": bias}
    return unfit(tensors) or why_not_form(x, residual, weight, bias)


def why_not_form(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    """What of that does not depend on the device."""
    if x.dtype not in DTYPES:
        return f"its numbers are {x.dtype}, and it takes float16, bfloat16 and float32"
    for name, tensor in {"x": x, "residual": residual, "weight": weight, "bias": bias}.items():
        if not tensor.is_contiguous():
            return f"{name} is not contiguous"
    if x.shape[-1] > WIDEST or x.numel() // x.shape[-1] > INT32:
        return f"its rows have {x.shape[-1]} channels, over {WIDEST}"
    return None


def prepare(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, *, arch: int
) -> tuple[tuple[Tensor, Tensor], list[Launch]]:
    """Room for the sum and its norm, and the launch that writes them."""
    channels = x.shape[-1]
    padded = power_of_two(channels)
    (warps,) = tuned("add_layer_norm", arch, f"{padded}x{8 * x.element_size()}", (4 if padded <= 2048 else 8,))
    both = torch.empty_like(x), torch.empty_like(x)
    arguments = (x, residual, weight, bias, *both, channels, eps)
    return both, [Launch("add_layer_norm", (x.numel() // channels, 1, 1), arguments, {"PADDED": padded}, warps)]

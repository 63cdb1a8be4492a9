"""A launch of a kernel on a GPU as data, made without Triton, for whoever carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

INT32 = 2**31 - 1
OLDEST = (8, 0)  # Triton makes no use of the tensor cores of older GPUs
GRID_ROWS = 65535  # limit of a grid's second and third side


@dataclass(frozen=True)
class Launch:
    """arguments: in the kernel's order; None for an absent tensor. constants: what the kernel is compiled for."""

    kernel: str
    grid: tuple[int, int, int]
    arguments: tuple[Any, ...]
    constants: Mapping[str, int | bool | str]
    warps: int = 4
    stages: int = 1


# prepare(*arguments, arch): the tensors that will hold an operation's result, and the launches that write them, in order.
Prepare = Callable[..., tuple[Any, list[Launch]]]


def by_triton(prepare: Prepare, kernels: Mapping[str, Any]) -> Callable[..., Any]:
    """The function that carries out what `prepare` says by Triton's own launcher."""

    def forward(*arguments: Any) -> Any:
        result, launches = prepare(*arguments, arch=architecture(arguments[0]))
        with on_device(arguments[0]):
            for one in launches:
                kernels[one.kernel][one.grid](*one.arguments, **one.constants, num_warps=one.warps, num_stages=one.stages)
        return result

    return forward


def blocks(length: int, size: int) -> int:
    return -(-length // size)


def power_of_two(number: int) -> int:
    """The next power of two, or the number itself."""
    return 1 << (number - 1).bit_length()


def architecture(tensor: Tensor) -> int:
    """Compute capability as one number, 86 for 8.6; 0 off the GPU."""
    if tensor.device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def on_device(tensor: Tensor) -> AbstractContextManager:
    """Makes a tensor's GPU the current one, as launches need."""
    if tensor.device.type != "cuda" or tensor.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(tensor.device)


def unfit(tensors: Mapping[str, Tensor | None]) -> str | None:
    """What all our GPU kernels ask of their tensors: why these cannot be taken, or None."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first, *others = given.values()
    if any(tensor.device != first.device for tensor in others):
        return "its tensors are on several devices"
    if first.device.type != "cuda":
        return f"its tensors are on '{first.device.type}', and it needs an NVIDIA GPU"
    if torch.version.hip:
        return "it has not been tried on AMD GPUs"
    capability = torch.cuda.get_device_capability(first.device)
    if capability < OLDEST:
        return f"this GPU has compute capability {capability[0]}.{capability[1]}, and it needs {OLDEST[0]}.{OLDEST[1]}"
    return unfit_form(given)


def unfit_form(tensors: Mapping[str, Tensor]) -> str | None:
    """What of that does not depend on the device."""
    for name, tensor in tensors.items():
        if torch.is_grad_enabled() and tensor.requires_grad:
            return f"{name} asks for gradients, and it has no backward pass"
        if tensor.numel() == 0:
            return f"{name} is empty"
        if extent(tensor) > INT32:
            return f"{name} spans more than 2**31 elements"
    return None


def extent(tensor: Tensor) -> int:
    """Elements from the first to the last in memory."""
    return 1 + sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.stride(), strict=True))

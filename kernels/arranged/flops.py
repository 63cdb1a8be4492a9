"""What torch's arranged layers compute, for FLOP counters: its own table lacks them."""

from math import prod

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula


def _convolution(x: list[int], weight: list[int], *_: object, out_shape: list[int], **__: object) -> int:
    return 2 * out_shape[0] * prod(out_shape[2:]) * prod(weight)


def _transposed(x: list[int], weight: list[int], *_: object, **__: object) -> int:
    return 2 * x[0] * prod(x[2:]) * prod(weight)


def _linear(x: list[int], weight: list[int], *_: object, **__: object) -> int:
    return 2 * prod(x[:-1]) * prod(weight)


def register() -> None:
    formulas = {
        "_convolution_pointwise": _convolution,
        "_convolution_transpose_pointwise": _transposed,
        "_linear_pointwise": _linear,
    }
    for name, formula in formulas.items():
        packet = getattr(torch.ops.mkldnn, name, None)
        if packet is not None and packet not in flop_registry:
            register_flop_formula(packet)(formula)

"""GEGLU after its projection: values times the exact GELU of gates.

Ways: `triton`, `ptx`, and `torch` on any device. The fused ways take contiguous float16, bfloat16 and float32 and no gradients;
they compute in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import InvalidArguments, Operation, Way
from ..library import define
from ..ptx import ptx
from .plan import prepare, why_not


def geglu(x: Tensor, *, way: str = "auto") -> Tensor:
    """[..., 2 C], values before gates as a projection gives them, to [..., C].

    way: 'auto', 'triton', 'ptx' or 'torch'. Raises `InvalidArguments` where x has no halves or no fractions.
    """
    if torch.compiler.is_compiling():
        check(x)
        return by_torch(x) if torch.is_grad_enabled() and x.requires_grad else OPERATOR(x)
    return GEGLU(x, way=way)


def geglu_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """geglu(linear(x, weight, bias)): [..., I], [2 C, I] and [2 C] to [..., C].

    On a processor values and gates are projected apart: both are then contiguous, and the activation is written over the gates.
    """
    learning = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    if x.device.type != "cpu" or learning:
        return geglu(F.linear(x, weight, bias))
    (value_weight, gate_weight), biases = weight.chunk(2), (None, None) if bias is None else bias.chunk(2)
    gates = F.linear(x, gate_weight, biases[1])
    return torch.ops.aten.gelu_(gates).mul_(F.linear(x, value_weight, biases[0]))


def check(x: Tensor) -> None:
    """Raise `InvalidArguments` for what no way can take."""
    if x.ndim < 1 or x.shape[-1] % 2 or not x.dtype.is_floating_point:
        raise InvalidArguments(f"Expected floating numbers [..., 2 C], got {list(x.shape)} of {x.dtype}.")


def by_torch(x: Tensor) -> Tensor:
    """By torch; the product is written over the activation where no gradient needs it. Its GELU in 16 bits wants contiguous gates."""
    values, gates = x.chunk(2, -1)
    if torch.is_grad_enabled() and x.requires_grad:
        return values * F.gelu(gates)
    if x.device.type == "cpu" and x.element_size() == 2:
        gates = gates.contiguous()
    return F.gelu(gates).mul_(values).contiguous()


def _triton() -> object:
    from .fwd_triton import forward

    return forward


GEGLU = Operation(
    "geglu",
    (Way("triton", _triton, why_not), ptx("geglu", prepare, why_not), Way("torch", lambda: by_torch)),
    check,
    contest=True,
)

OPERATOR = define("geglu(Tensor x) -> Tensor", lambda x: GEGLU(x), lambda x: x.new_empty(*x.shape[:-1], x.shape[-1] // 2))

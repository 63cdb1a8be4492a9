"""The step between two blocks of a transformer: x + residual, which goes on, and its layer norm, which the next block reads.

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


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, way: str = "auto"
) -> tuple[Tensor, Tensor]:
    """(x + residual, layer_norm(x + residual)); x and residual [..., C], weight and bias [C].

    way: 'auto', 'triton', 'ptx' or 'torch'. Raises `InvalidArguments` where shapes or dtypes do not fit each other.
    """
    arguments = x, residual, weight, bias, eps
    if torch.compiler.is_compiling():
        check(*arguments)
        learning = torch.is_grad_enabled() and any(t.requires_grad for t in arguments[:4])
        return by_torch(*arguments) if learning else OPERATOR(*arguments)
    return ADD_LAYER_NORM(*arguments, way=way)


def check(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    """Raise `InvalidArguments` where these do not fit each other."""
    if x.ndim < 1 or residual.shape != x.shape or residual.dtype != x.dtype or not x.dtype.is_floating_point:
        raise InvalidArguments(
            "Expected x and residual of one shape [..., C] and floating dtype, "
            f"got {list(x.shape)} of {x.dtype} and {list(residual.shape)} of {residual.dtype}."
        )
    if weight.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise InvalidArguments(f"Expected weight and bias [{x.shape[-1]}], got {list(weight.shape)} and {list(bias.shape)}.")


def by_torch(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = (x + residual).contiguous()
    return total, F.layer_norm(total, total.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), eps)


def _triton() -> object:
    from .fwd_triton import forward

    return forward


ADD_LAYER_NORM = Operation(
    "add_layer_norm",
    (Way("triton", _triton, why_not), ptx("add_layer_norm", prepare, why_not), Way("torch", lambda: by_torch)),
    check,
    contest=True,
)

OPERATOR = define(
    "add_layer_norm(Tensor x, Tensor residual, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)",
    lambda *arguments: ADD_LAYER_NORM(*arguments),
    lambda x, residual, weight, bias, eps: (x.new_empty(x.shape), x.new_empty(x.shape)),
)

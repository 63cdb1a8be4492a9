"""Group norm and SiLU that keep channels_last and pass over the map as seldom as can be.

Ways: `triton`, `ptx`, and `torch` on any device. torch's own group norm on CUDA goes through NCHW (as of 2.11). The fused ways take
float16, bfloat16 and float32 in channels_last and no gradients; statistics are in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import InvalidArguments, Operation, Way
from ..library import define
from ..ptx import ptx
from .plan import prepare, why_not


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    *,
    silu: bool = True,
    conv_bias: Tensor | None = None,
    embedding: Tensor | None = None,
    way: str = "auto",
) -> Tensor:
    """silu(group_norm(x + conv_bias + embedding)), [B, C, H, W] in and out, in the layout of x.

    weight, bias, conv_bias: [C]. embedding: [B, C] or [1, C]. silu: False leaves the activation out. way: 'auto', 'triton', 'ptx' or
    'torch'. Raises `InvalidArguments` where shapes do not fit each other.
    """
    arguments = x, groups, weight, bias, eps, silu, conv_bias, embedding
    if torch.compiler.is_compiling():
        check(*arguments)
        learning = torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (x, weight, bias, conv_bias, embedding)
        )
        return by_torch(*arguments) if learning else OPERATOR(*arguments)
    return GROUP_NORM_SILU(*arguments, way=way)


def check(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    conv_bias: Tensor | None,
    embedding: Tensor | None,
) -> None:
    """Raise `InvalidArguments` where these do not fit each other."""
    if x.ndim != 4 or groups < 1 or x.shape[1] % groups or not x.dtype.is_floating_point:
        raise InvalidArguments(
            f"Expected maps [B, C, H, W] with C a multiple of {groups} groups, got {list(x.shape)} of {x.dtype}."
        )
    channels = x.shape[1]
    for name, tensor in {"weight": weight, "bias": bias, "conv_bias": conv_bias}.items():
        if tensor is not None and tensor.shape != (channels,):
            raise InvalidArguments(f"Expected {name} [{channels}] for maps {list(x.shape)}, got {list(tensor.shape)}.")
    if embedding is not None and (
        embedding.ndim != 2 or embedding.shape[0] not in (1, x.shape[0]) or embedding.shape[1] != channels
    ):
        raise InvalidArguments(f"Expected an embedding [{x.shape[0]} or 1, {channels}], got {list(embedding.shape)}.")


def by_torch(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    conv_bias: Tensor | None,
    embedding: Tensor | None,
) -> Tensor:
    """By torch's group norm. What is added is summed first, and SiLU is done in place: one pass over the map less for each."""
    given = [t.to(x.dtype) for t in (conv_bias, embedding) if t is not None]
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    if given:
        x = x + sum(given[1:], given[0])[..., None, None]
    y = F.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), eps)
    if silu:
        y = F.silu(y, inplace=True)
    return y.contiguous(memory_format=layout)


def _triton() -> object:
    from .fwd_triton import forward

    return forward


GROUP_NORM_SILU = Operation(
    "group_norm_silu",
    (Way("triton", _triton, why_not), ptx("group_norm_silu", prepare, why_not), Way("torch", lambda: by_torch)),
    check,
    contest=True,
)


def _fake(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    conv_bias: Tensor | None = None,
    embedding: Tensor | None = None,
) -> Tensor:
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return torch.empty_like(x, memory_format=layout)


OPERATOR = define(
    "group_norm_silu(Tensor x, int groups, Tensor weight, Tensor bias, float eps, bool silu, "
    "Tensor? conv_bias=None, Tensor? embedding=None) -> Tensor",
    lambda x, groups, weight, bias, eps, silu, conv_bias=None, embedding=None: GROUP_NORM_SILU(
        x, groups, weight, bias, eps, silu, conv_bias, embedding
    ),
    _fake,
)

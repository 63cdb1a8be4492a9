"""Convolutions and linear layers whose weights lie as oneDNN wants them, with the activation in the same pass.

torch lays a weight out anew on every call: a tenth of the time of a 3 x 3 convolution with 256 channels over 34 x 34 cells, half of it
over 8 x 8 (benchmarks/LOG.md). Where gradients, autocast, another device or dtype rule this out, they are torch's own layers.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from ..derived import PerWeight
from .flops import register

register()
SIDE, ROWS = 64, 256  # of the input a weight is arranged for; others take no longer, and results do not hang on who came first


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0, relu: bool = False
) -> Tensor:
    """relu(convolution): [B, I, H, W], [O, I, k, k] and [O] to [B, O, H', W'], zeros around. Differentiable, also under autocast."""
    if not fits(x, weight, bias) or weight.shape[2:] == (1, 1):  # 1 x 1: nothing to win, and to lose on large maps
        y = F.conv2d(x, weight, bias, stride, padding)
        return F.relu(y, inplace=True) if relu else y
    x = x.contiguous(memory_format=torch.channels_last)
    return convolved(x, _for_conv2d(weight, stride, padding), bias, stride, padding, relu)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """gelu(linear), GELU by the error function: [..., I], [O, I] and [O] to [..., O]. Differentiable, also under autocast."""
    if x.dtype != torch.bfloat16 or not fits(x, weight, bias):  # float32 goes another way in torch, which needs no arranging
        y = F.linear(x, weight, bias)
        return F.gelu(y) if gelu else y
    return _multiplied(x, _for_linear(weight), bias, gelu)


def arrange_conv2d(weight: Tensor, stride: int, padding: int) -> Tensor:
    """A kernel [O, I, k, k] for `convolved`, which keeps nothing itself."""
    form = [padding] * 2, [stride] * 2, [1, 1], 1, [1, weight.shape[1], SIDE, SIDE]
    return torch._C._nn.mkldnn_reorder_conv2d_weight(weight.contiguous().to_mkldnn(), *form)


def _arrange_linear(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def convolved(x: Tensor, arranged: Tensor, bias: Tensor | None, stride: int, padding: int, relu: bool = False) -> Tensor:
    """relu(convolution) on a channels_last map, where `fits(x, weight, bias)` says that it can."""
    form = [padding] * 2, [stride] * 2, [1, 1], 1
    return torch.ops.mkldnn._convolution_pointwise(x, arranged, bias, *form, "relu" if relu else "none", [], "")


def _multiplied(x: Tensor, matrix: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, matrix, bias, *(("gelu", [], "none") if gelu else ("none", [], "")))


_for_conv2d, _for_linear = PerWeight(arrange_conv2d), PerWeight(_arrange_linear)

# ---- transposed convolutions that double a map's sides

_DOUBLING = [1, 1], [0, 0], [2, 2], [1, 1], 1  # padding, padding of the output, stride, dilation, groups


def arrange_doubling(weight: Tensor) -> Tensor:
    """A kernel [I, O, 4, 4] for `doubling`, which keeps nothing itself."""
    return torch.ops.mkldnn._reorder_convolution_transpose_weight(weight, *_DOUBLING, [1, weight.shape[0], SIDE, SIDE])


def doubling(x: Tensor, arranged: Tensor, bias: Tensor | None = None) -> Tensor:
    """[B, I, H, W] to [B, O, 2 H, 2 W], where `fits(x, weight, bias)` says that it can."""
    x = x.contiguous(memory_format=torch.channels_last)
    return torch.ops.mkldnn._convolution_transpose_pointwise(x, arranged, bias, *_DOUBLING, "none", [], "")


# ---- where these can be had


def fits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether these can be computed on an arranged weight: on this processor, and without gradients."""
    given = (x, weight) if bias is None else (x, weight, bias)
    if any(tensor.device.type != "cpu" or tensor.dtype != x.dtype for tensor in given) or not x.numel():
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return False
    return not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu") and supported(x.dtype)


@functools.cache
def supported(dtype: torch.dtype) -> bool:
    """Whether this torch has the operations, which are private and may change, and this processor the instructions."""
    if dtype not in (torch.bfloat16, torch.float32) or not torch.backends.mkldnn.is_available():
        return False
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False  # not tried on other processors
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        with torch.inference_mode():
            x, weight = torch.ones(1, 16, 4, 4, dtype=dtype), torch.ones(16, 16, 3, 3, dtype=dtype)
            rows, matrix = x.flatten(2)[0], weight[:, :, 0, 0].contiguous()
            right = torch.equal(convolved(x, arrange_conv2d(weight, 1, 1), None, 1, 1, True), F.conv2d(x, weight, padding=1))
            right &= torch.equal(_multiplied(rows, _arrange_linear(matrix), None, False), F.linear(rows, matrix))
            cross = torch.ones(16, 16, 4, 4, dtype=dtype)
            return right and torch.equal(doubling(x, arrange_doubling(cross)), F.conv_transpose2d(x, cross, None, 2, 1))
    except Exception:  # whatever a changed operation raises
        return False

"""Instance norm, a residual or a scaled skip, and ReLU over maps that stay in channels_last, forward and backward.

Ways: `triton`, `ptx`, and `torch` on any device. The fused ways take float16, bfloat16 and float32 in channels_last and no gradients.
The zeros around a map are the next convolution's own padding, so none are written here.

By torch: with gradients both passes are per-channel sums and one multiply-add over a [B, H * W, C] view; torch's group norm with one
channel a group, the same mathematics, took a third of a training step on two AVX-512 cores. Without, group norm's forward is faster,
but for maps of few cells in channels_last, where it is slow (benchmarks/LOG.md).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import InvalidArguments, Operation, Way
from ..library import define
from ..ptx import ptx
from .plan import EPS, prepare, why_not

FEW = 1024  # cells; below, torch's group norm in channels_last takes up to forty times what it takes in NCHW


def instance_norm_act(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    relu: bool = True,
    residual: Tensor | None = None,
    gain: Tensor | None = None,
    way: str = "auto",
) -> Tensor:
    """relu(instance_norm(x) * scale + shift + gain * residual), [B, C, H, W] in and out, in the layout of x.

    scale, shift: [1, C], or [B, C] for a different one per picture. residual: as x, added as it is without a gain [1 or B, C].
    Statistics are taken in float32 (float64 for float64 input). way: 'auto', 'triton', 'ptx' or 'torch'. Raises `InvalidArguments`
    where shapes do not fit each other.
    """
    arguments = x, scale, shift, relu, residual, gain
    if torch.compiler.is_compiling():
        check(*arguments)
        return by_torch(*arguments) if _learning(x, scale, shift, residual, gain) else OPERATOR(*arguments)
    return INSTANCE_NORM_ACT(*arguments, way=way)


def check(x: Tensor, scale: Tensor, shift: Tensor, relu: bool, residual: Tensor | None, gain: Tensor | None) -> None:
    """Raise `InvalidArguments` where these do not fit each other."""
    if x.ndim != 4 or not x.dtype.is_floating_point:
        raise InvalidArguments(f"Expected maps [B, C, H, W] of floats, got {list(x.shape)} of {x.dtype}.")
    batch, channels = x.shape[:2]
    for name, tensor in {"scale": scale, "shift": shift, "gain": gain}.items():
        if tensor is not None and (tensor.ndim != 2 or tensor.shape[0] not in (1, batch) or tensor.shape[1] != channels):
            raise InvalidArguments(f"Expected {name} [1 or {batch}, {channels}], got {list(tensor.shape)}.")
    if scale.shape != shift.shape:
        raise InvalidArguments(f"Expected scale and shift of one shape, got {list(scale.shape)} and {list(shift.shape)}.")
    if residual is not None and (residual.shape, residual.dtype) != (x.shape, x.dtype):
        raise InvalidArguments(
            f"Expected a residual {list(x.shape)} of {x.dtype} as the maps are, got {list(residual.shape)} of {residual.dtype}."
        )
    if gain is not None and residual is None:
        raise InvalidArguments("Expected a residual for the gain, got none.")


def _learning(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def by_torch(x: Tensor, scale: Tensor, shift: Tensor, relu: bool, residual: Tensor | None, gain: Tensor | None) -> Tensor:
    """As the module says; without gradients, what follows the norm is done in place."""
    factor = None if gain is None else gain[:, :, None, None].to(x.dtype)
    if _learning(x, scale, shift) or x.shape[2:] == (1, 1):  # torch's group norm refuses maps of one cell
        y = _InstanceNorm.apply(x, scale, shift)
        y = y if residual is None else y + residual if gain is None else torch.addcmul(y, residual, factor)
        return F.relu(y) if relu else y
    y = _normed(x, scale, shift)
    if residual is not None:
        y = y.add_(residual) if gain is None else y.addcmul_(residual, factor)
    return F.relu(y, inplace=True) if relu else y


def _normed(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The norm alone, in the layout of x, where no gradients are asked for."""
    few = x.device.type == "cpu" and x.shape[2] * x.shape[3] < FEW
    shared = len(scale) == 1
    weight, bias = (scale[0].to(x.dtype), shift[0].to(x.dtype)) if shared else (None, None)
    y = F.group_norm(x.contiguous() if few else x, x.shape[1], weight, bias, EPS)
    if not shared:
        y = torch.addcmul(shift[:, :, None, None].to(x.dtype), y, scale[:, :, None, None].to(x.dtype))
    return y.contiguous(memory_format=_layout(x))


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def _cells(x: Tensor) -> Tensor:
    """[B, C, H, W] as [B, H * W, C]; a view when x is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _map(cells: Tensor, like: Tensor) -> Tensor:
    return cells.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


class _InstanceNorm(torch.autograd.Function):
    """y = scale * (x - mean) / std + shift."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        cells, wide = _cells(x), torch.float64 if x.dtype == torch.float64 else torch.float32
        mean = cells.mean(1, keepdim=True, dtype=wide)  # [B, 1, C]
        centred = cells - mean.to(x.dtype)
        # What rounding the mean left behind is taken out of the variance and the shift.
        rest = mean - mean.to(x.dtype).to(wide)
        variance = centred.square().mean(1, keepdim=True, dtype=wide) - rest.square()
        inverse = torch.rsqrt(variance.clamp_min(0) + EPS)
        gain = inverse * scale.unsqueeze(1).to(wide)
        offset = shift.unsqueeze(1).to(wide) - rest * gain
        ctx.save_for_backward(centred, inverse, gain)
        ctx.kinds = scale.dtype, shift.dtype, len(scale)
        return _map(torch.addcmul(offset.to(x.dtype), centred, gain.to(x.dtype)), x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centred, inverse, gain = ctx.saved_tensors
        scale_type, shift_type, rows = ctx.kinds
        cells, wide = _cells(grad), inverse.dtype
        mean_grad = cells.mean(1, keepdim=True, dtype=wide)
        mean_product = (cells * centred).mean(1, keepdim=True, dtype=wide) * inverse  # of grad and the normed x
        dx = torch.addcmul((-gain * mean_grad).to(grad.dtype), cells, gain.to(grad.dtype))
        dx = dx.addcmul_(centred, (-gain * inverse * mean_product).to(grad.dtype))
        to_scale, to_shift = (mean.squeeze(1) * cells.shape[1] for mean in (mean_product, mean_grad))  # [B, C]
        if rows == 1:
            to_scale, to_shift = to_scale.sum(0, keepdim=True), to_shift.sum(0, keepdim=True)
        return _map(dx, grad), to_scale.to(scale_type), to_shift.to(shift_type)


def _triton() -> object:
    from .fwd_triton import forward

    return forward


INSTANCE_NORM_ACT = Operation(
    "instance_norm_act",
    (Way("triton", _triton, why_not), ptx("instance_norm_act", prepare, why_not), Way("torch", lambda: by_torch)),
    check,
    contest=True,
)


def _fake(
    x: Tensor, scale: Tensor, shift: Tensor, relu: bool, residual: Tensor | None = None, gain: Tensor | None = None
) -> Tensor:
    return torch.empty_like(x, memory_format=_layout(x))


OPERATOR = define(
    "instance_norm_act(Tensor x, Tensor scale, Tensor shift, bool relu, Tensor? residual=None, Tensor? gain=None) -> Tensor",
    lambda x, scale, shift, relu, residual=None, gain=None: INSTANCE_NORM_ACT(x, scale, shift, relu, residual, gain),
    _fake,
)
